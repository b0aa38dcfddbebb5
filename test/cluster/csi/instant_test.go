package csi

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vmfr/test/fixture"
)

// The two places of a volume that a counter writes, in this order, and the data between them.
const (
	counterFirst = 0
	counterLast  = testSize - counterBlock
	counterBlock = 4096
)

// counter writes ever higher numbers to a device, each number at both places, until stop is closed.
// Both are on the device before the next number: at any instant the second is the first, or one less.
// The pause, a time.Duration, may change meanwhile.
func counter(device string, pause *atomic.Int64, stop <-chan struct{}) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := uint64(1); ; n++ {
		b := binary.BigEndian.AppendUint64(nil, n)
		for _, at := range []int64{counterFirst, counterLast} {
			_, err := f.WriteAt(b, at)
			if err := errors.Join(err, f.Sync()); err != nil {
				return err
			}
		}
		select {
		case <-stop:
			return nil
		case <-time.After(time.Duration(pause.Load())):
		}
	}
}

// counters reads the two numbers.
func counters(t testing.TB, image string) (first, last uint64) {
	t.Helper()
	f := must[*os.File](t)(os.Open(image))
	defer f.Close()
	for at, n := range map[int64]*uint64{counterFirst: &first, counterLast: &last} {
		var b [8]byte
		must[int](t)(f.ReadAt(b[:], at))
		*n = binary.BigEndian.Uint64(b[:])
	}
	return first, last
}

// TestInstant takes snapshots of a Block volume that is written.
func TestInstant(t *testing.T) {
	for name, c := range map[string]struct {
		clones bool
		pause  time.Duration // of the writer
	}{
		"cloned":      {clones: true},
		"copied":      {pause: 200 * time.Millisecond},
		"copied busy": {},
	} {
		t.Run(name, func(t *testing.T) {
			state := ""
			if c.clones {
				fixture.NeedRoot(t)
				fixture.Need(t, "mkfs.xfs")
				host := filepath.Join(t.TempDir(), "host.xfs")
				fixture.Sparse(t, host, 1<<30)
				fixture.Run(t, "mkfs.xfs", "-q", "-m", "reflink=1", host)
				state = fixture.Mount(t, host, "xfs", "rw", 0, 0)
			}
			x := newTester(t, state, asBlock)
			id := x.volume("pvc-1", nil)
			x.mustStage(id)
			device := x.mustPublish(id, "writer", false)
			fill := must[*os.File](t)(os.OpenFile(device, os.O_RDWR, 0))
			must[int](t)(fill.Write(make([]byte, testSize))) // what is copied between the two places
			x.ok(errors.Join(fill.Sync(), fill.Close()))
			stop, ended := make(chan struct{}), make(chan error, 1)
			var pause atomic.Int64
			pause.Store(int64(c.pause))
			go func() { ended <- counter(device, &pause, stop) }()

			taken, refused := 0, 0
			for i := range 6 {
				s, err := x.CreateSnapshot(context.Background(), &csi.CreateSnapshotRequest{Name: "s" + string(rune('a'+i)), SourceVolumeId: id})
				switch {
				case status.Code(err) == codes.Unavailable && !c.clones:
					refused++
					pause.Store(2 * pause.Load()) // on a busy machine a copy may take longer than the writer rests
				case err != nil:
					t.Fatal(err)
				default:
					taken++
					if first, last := counters(t, x.snapshots.image(s.Snapshot.SnapshotId)); first-last > 1 {
						t.Errorf("the snapshot is of no instant: %d is before %d", first, last)
					}
				}
				if c.pause > 0 && taken > 4 {
					break
				}
			}
			close(stop)
			x.ok(<-ended)
			t.Logf("%d snapshots were taken, %d refused", taken, refused)
			if taken == 0 && (c.clones || c.pause > 0) {
				t.Error("no snapshot was taken")
			}
			// What could not be taken leaves nothing, and is taken when the writer rests.
			x.mustUnpublish(id, "writer")
			x.snapshot("at rest", id)
			x.mustUnstage(id)
			if parts := must[[]string](t)(filepath.Glob(filepath.Join(string(x.snapshots), "*.part"))); len(parts) > 0 {
				t.Errorf("left behind: %q", parts)
			}
		})
	}
}

// A file system is frozen while it is copied: its snapshots are clean however much is written.
func TestFrozen(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	id := x.volume("pvc-1", nil)
	x.mustStage(id)
	dir := x.mustPublish(id, "writer", false)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for round := uint64(0); ; round++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := fixture.Churn(dir, round, 20, stop); err != nil {
				ended <- err
				return
			}
		}
	}()
	for i := range 5 {
		s := x.snapshot("s"+string(rune('a'+i)), id)
		fixture.Run(t, "e2fsck", "-fn", x.snapshots.image(s.GetSnapshot().SnapshotId))
	}
	close(stop)
	x.ok(<-ended)

	// A driver that was killed in between: Provision thaws first.
	f := must[*os.File](t)(os.Open(dir))
	x.ok(unix.IoctlSetInt(int(f.Fd()), ioctlFreeze, 0))
	x.ok(x.volumes.thawAll())
	if err := unix.IoctlSetInt(int(f.Fd()), ioctlThaw, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("it was still frozen: %v", err)
	}
	x.ok(f.Close())
	x.mustUnpublish(id, "writer")
	x.mustUnstage(id)
}

// A copy that is cancelled ends soon and leaves nothing.
func TestCancelled(t *testing.T) {
	x := newTester(t, "", asBlock)
	id := x.volume("pvc-1", nil)
	x.write(x.volumes.image(id), "content")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := x.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s1", SourceVolumeId: id})
	wantCode(t, err, codes.Canceled)
	if left := must[[]os.DirEntry](t)(os.ReadDir(string(x.snapshots))); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
