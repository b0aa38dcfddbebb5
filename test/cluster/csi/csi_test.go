package csi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vmfr/test/cluster/node"
	"vmfr/test/fixture"
)

// testSize is of the tests' volumes, in bytes.
const testSize = 16 << 20

// tester is a driver with the paths that a kubelet would choose.
type tester struct {
	*Driver
	t    testing.TB
	dir  string
	mode *csi.VolumeCapability
}

var (
	asBlock      = capability("Block", "ReadWriteOnce", nil)
	asFilesystem = capability("Filesystem", "ReadWriteOnce", nil)
)

// newTester returns a driver with a state directory of its own, or below state. When the test ends,
// no loop device may be attached to a file there.
func newTester(t testing.TB, state string, mode *csi.VolumeCapability) *tester {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "mke2fs")
	if state == "" {
		state = t.TempDir()
	}
	d, err := New(Config{Node: "node1", State: state})
	if err != nil {
		t.Fatal(err)
	}
	x := &tester{Driver: d, t: t, dir: t.TempDir(), mode: mode}
	t.Cleanup(func() { noLoops(t, state) })
	return x
}

// leftLimit is how long a device that nobody uses any more may be kept by somebody who looks at all that the machine
// has, as LVM's programs do: until that one closes it.
const leftLimit = 20 * time.Second

// noLoops fails the test if a loop device stays attached to a file of the directory, and detaches it.
func noLoops(t testing.TB, dir string) {
	t.Helper()
	left := must[[]string](t)(node.Loops(dir))
	for end := time.Now().Add(leftLimit); len(left) > 0 && time.Now().Before(end); left = must[[]string](t)(node.Loops(dir)) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, l := range left {
		t.Errorf("%s is left", l)
		fixture.Run(t, "losetup", "--detach", l)
	}
}

// must ends the test if err is not nil.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(coded(err)) != code {
		t.Errorf("the error is %v, want the code %s", err, code)
	}
}

// volume makes a volume, empty unless from is given.
func (x *tester) volume(name string, from *csi.VolumeContentSource) string {
	x.t.Helper()
	r := &csi.CreateVolumeRequest{Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: testSize},
		VolumeCapabilities: []*csi.VolumeCapability{x.mode}, VolumeContentSource: from}
	return must[*csi.CreateVolumeResponse](x.t)(x.CreateVolume(context.Background(), r)).Volume.VolumeId
}

func (x *tester) snapshot(name, volume string) *csi.VolumeContentSource {
	x.t.Helper()
	s := must[*csi.CreateSnapshotResponse](x.t)(x.CreateSnapshot(context.Background(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})).Snapshot
	if !s.ReadyToUse || s.SizeBytes != testSize || s.SourceVolumeId != volume {
		x.t.Errorf("the snapshot is %v", s)
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: s.SnapshotId}}}
}

func (x *tester) staging(id string) string       { return filepath.Join(x.dir, "staging-"+id) }
func (x *tester) target(id, pod string) string   { return filepath.Join(x.dir, id+"-"+pod) }
func (x *tester) stage(id string) error          { return x.stageAt(id, x.staging(id)) }
func (x *tester) unstage(id string) error        { return x.unstageAt(id, x.staging(id)) }
func (x *tester) unpublish(id, pod string) error { return x.unpublishAt(id, x.target(id, pod)) }
func (x *tester) mustStage(id string)            { x.t.Helper(); x.ok(x.stage(id)) }
func (x *tester) mustUnstage(id string)          { x.t.Helper(); x.ok(x.unstage(id)) }
func (x *tester) mustUnpublish(id, pod string)   { x.t.Helper(); x.ok(x.unpublish(id, pod)) }
func (x *tester) unstageAt(id, path string) error {
	_, err := x.NodeUnstageVolume(context.Background(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: path})
	return err
}

func (x *tester) stageAt(id, path string) error {
	_, err := x.NodeStageVolume(context.Background(), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: path, VolumeCapability: x.mode})
	return err
}

func (x *tester) publish(id, pod string, readOnly bool) error {
	_, err := x.NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: x.staging(id),
		TargetPath: x.target(id, pod), VolumeCapability: x.mode, Readonly: readOnly})
	return err
}

func (x *tester) mustPublish(id, pod string, readOnly bool) string {
	x.t.Helper()
	x.ok(x.publish(id, pod, readOnly))
	return x.target(id, pod)
}

func (x *tester) unpublishAt(id, path string) error {
	_, err := x.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
	return err
}

func (x *tester) delete(id string) error {
	_, err := x.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

func (x *tester) ok(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// write writes a file, or over the begin of a device, and syncs it.
func (x *tester) write(path, content string) {
	x.t.Helper()
	f := must[*os.File](x.t)(os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600))
	_, err := f.WriteString(content)
	x.ok(errors.Join(err, f.Sync(), f.Close()))
}

// begin reads the begin of a file or device.
func (x *tester) read(path string, length int) string {
	x.t.Helper()
	f := must[*os.File](x.t)(os.Open(path))
	defer f.Close()
	b := make([]byte, length)
	must[int](x.t)(io.ReadFull(f, b))
	return string(b)
}

func TestFilesystem(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	id := x.volume("pvc-1", nil)
	wantCode(t, x.publish(id, "early", false), codes.FailedPrecondition)
	for range 2 {
		x.mustStage(id)
	}
	wantCode(t, x.delete(id), codes.FailedPrecondition)
	var first, second string
	for range 2 {
		first, second = x.mustPublish(id, "first", false), x.mustPublish(id, "second", true)
	}
	wantCode(t, x.publish(id, "second", false), codes.AlreadyExists)
	x.write(filepath.Join(first, "file"), "content")
	if got := x.read(filepath.Join(second, "file"), 7); got != "content" {
		t.Errorf("the other pod reads %q", got)
	}
	if err := os.WriteFile(filepath.Join(second, "file"), nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("a pod that may only read writes: %v", err)
	}
	other := x.volume("pvc-2", nil)
	wantCode(t, x.stageAt(other, x.staging(id)), codes.AlreadyExists)

	for range 2 {
		x.mustUnpublish(id, "second")
	}
	x.mustUnpublish(id, "first")
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is still there: %v", err)
	}
	for range 2 {
		x.mustUnstage(id)
	}
	noLoops(t, string(x.volumes))

	// The content outlives the driver; a second file system is not made.
	x.mustStage(id)
	if got := x.read(filepath.Join(x.mustPublish(id, "third", true), "file"), 7); got != "content" {
		t.Errorf("after it was staged again: %q", got)
	}
	x.mustUnpublish(id, "third")
	x.mustUnstage(id)
	for range 2 {
		x.ok(x.delete(id))
	}
	wantCode(t, x.stage(id), codes.NotFound)
	wantCode(t, x.unstage(id), codes.NotFound)
}

func TestBlock(t *testing.T) {
	x := newTester(t, "", asBlock)
	id := x.volume("pvc-1", nil)
	wantCode(t, x.publish(id, "early", false), codes.FailedPrecondition)
	for range 2 {
		x.mustStage(id)
	}
	var first, second string
	for range 2 {
		first, second = x.mustPublish(id, "first", false), x.mustPublish(id, "second", false)
	}
	f := must[*os.File](t)(os.Open(first))
	if size := must[int64](t)(f.Seek(0, io.SeekEnd)); size != testSize {
		t.Errorf("the device has %d bytes", size)
	}
	x.ok(f.Close())
	x.write(first, "content")
	if got := x.read(second, 7); got != "content" {
		t.Errorf("the other pod reads %q", got)
	}
	third := x.mustPublish(id, "third", true)
	x.mustPublish(id, "third", true)
	wantCode(t, x.publish(id, "third", false), codes.AlreadyExists)
	if got := x.read(third, 7); got != "content" {
		t.Errorf("the pod that may only read reads %q", got)
	}
	if f, err := os.OpenFile(third, os.O_RDWR, 0); err == nil {
		_, err = f.WriteString("written")
		if err := errors.Join(err, f.Sync(), f.Close()); err == nil {
			t.Error("a pod that may only read writes")
		}
	}
	for _, pod := range []string{"first", "second", "third", "third"} {
		x.mustUnpublish(id, pod)
	}

	// A driver that is started again knows what is attached.
	again := must[*Driver](t)(New(Config{Node: "node1", State: filepath.Dir(string(x.volumes))}))
	_, err := again.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.FailedPrecondition)
	x.Driver = again
	loops := must[[]loop](t)(loopsOf(x.volumes.image(id)))
	if len(loops) != 2 {
		t.Fatalf("%d loop devices are attached, want one to write and one to read", len(loops))
	}
	// Something still has a device open: unstaging tells so, and works when it was closed.
	user := must[*os.File](t)(os.Open(loops[0].path()))
	if err := x.unstage(id); err == nil {
		t.Error("a device that is open was detached")
	}
	x.ok(user.Close())
	x.mustUnstage(id)
	x.ok(x.delete(id))
}

// TestNodes: two nodes share the folder. A volume is on one of them at a time; the other one waits for
// it, and refuses it in the end.
func TestNodes(t *testing.T) {
	for name, mode := range map[string]*csi.VolumeCapability{"block": asBlock, "filesystem": asFilesystem} {
		t.Run(name, func(t *testing.T) {
			one := newTester(t, "", mode)
			two := &tester{Driver: must[*Driver](t)(New(Config{Node: "node2", State: filepath.Dir(string(one.volumes))})), t: t, dir: t.TempDir(), mode: mode}
			id := one.volume("pvc-1", nil)
			stage := func(ctx context.Context) error {
				_, err := two.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: two.staging(id), VolumeCapability: mode})
				return err
			}
			one.mustStage(id)
			soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			wantCode(t, stage(soon), codes.FailedPrecondition)
			two.mustUnstage(id) // which takes nothing from the other
			one.mustPublish(id, "reader", true)
			one.mustUnpublish(id, "reader")
			_, err := two.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s1", SourceVolumeId: id})
			wantCode(t, err, codes.Unavailable)

			staged := make(chan error, 1)
			go func() { staged <- stage(t.Context()) }()
			one.mustUnstage(id)
			one.ok(<-staged)
			soon, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = one.NodeStageVolume(soon, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: one.staging(id), VolumeCapability: mode})
			wantCode(t, err, codes.FailedPrecondition)
			_, err = one.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
			wantCode(t, err, codes.FailedPrecondition)
			two.mustUnstage(id)
			one.ok(one.delete(id))
		})
	}
}

func TestCopies(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	id := x.volume("source", nil)
	x.mustStage(id)
	file := filepath.Join(x.mustPublish(id, "writer", false), "file")
	x.write(file, "first ")
	from := x.snapshot("s1", id)
	x.write(file, "second")
	x.snapshot("s1", id) // no other one
	clone := x.volume("clone", &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}})
	x.mustUnpublish(id, "writer")
	x.mustUnstage(id)
	x.ok(x.delete(id))
	for name, want := range map[string]string{x.volume("restored", from): "first ", clone: "second"} {
		fixture.Run(t, "e2fsck", "-fn", x.volumes.image(name)) // clean: it was frozen
		x.mustStage(name)
		if got := x.read(filepath.Join(x.mustPublish(name, "reader", true), "file"), 6); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		x.mustUnpublish(name, "reader")
		x.mustUnstage(name)
	}
	if sparse := must[os.FileInfo](t)(os.Stat(x.volumes.image(clone))).Sys(); sparse != nil {
		var st unix.Stat_t
		x.ok(unix.Stat(x.volumes.image(clone), &st))
		if st.Blocks*512 > testSize/2 {
			t.Errorf("the copy has %d bytes on disk: its holes are filled", st.Blocks*512)
		}
	}
}

func TestRefused(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	ctx := context.Background()
	create := func(change func(*csi.CreateVolumeRequest)) error {
		r := &csi.CreateVolumeRequest{Name: "pvc-1", CapacityRange: &csi.CapacityRange{RequiredBytes: testSize}, VolumeCapabilities: []*csi.VolumeCapability{asFilesystem}}
		change(r)
		_, err := x.CreateVolume(ctx, r)
		return err
	}
	source := func(id string) *csi.VolumeContentSource {
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
	id := x.volume("there", nil)
	s := x.snapshot("s1", id)
	for name, c := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		want   codes.Code
	}{
		"another size":    {func(r *csi.CreateVolumeRequest) { r.Name, r.CapacityRange.RequiredBytes = "there", 2*testSize }, codes.AlreadyExists},
		"another source":  {func(r *csi.CreateVolumeRequest) { r.Name, r.VolumeContentSource = "there", s }, codes.AlreadyExists},
		"no such source":  {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = source("s2") }, codes.NotFound},
		"a source's path": {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = source("../volumes/there") }, codes.NotFound},
		"a larger copy":   {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource, r.CapacityRange.RequiredBytes = s, 2*testSize }, codes.OutOfRange},
		"an empty range":  {func(r *csi.CreateVolumeRequest) { r.CapacityRange.LimitBytes = 1 }, codes.InvalidArgument},
		"no multiple": {func(r *csi.CreateVolumeRequest) {
			r.CapacityRange = &csi.CapacityRange{RequiredBytes: 4097, LimitBytes: 4098}
		}, codes.OutOfRange},
		"too large": {func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 1<<63 - 1 }, codes.OutOfRange},
		"another file system": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{{AccessMode: asFilesystem.AccessMode, AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "xfs"}}}}
		}, codes.InvalidArgument},
		"options": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{capability("Filesystem", "ReadWriteOnce", []string{"noatime"})}
		}, codes.InvalidArgument},
		"neither block nor file": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{{AccessMode: asFilesystem.AccessMode}}
		}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, create(c.change), c.want) })
	}
	t.Run("a path as ID", func(t *testing.T) {
		x.ok(os.WriteFile(filepath.Join(x.dir, "victim.img"), nil, 0o600))
		x.ok(x.delete("../../002/victim"))
		x.ok(x.delete(filepath.Join(x.dir, "victim")))
		if _, err := os.Stat(filepath.Join(x.dir, "victim.img")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a name that no path holds", func(t *testing.T) {
		name := "../" + strings.Repeat("ä", 60)
		if a, b := x.volume(name, nil), x.volume(name, nil); a != b || !safeID.MatchString(a) {
			t.Errorf("the IDs are %q and %q", a, b)
		}
	})
}

// What is no ext4 is neither overwritten nor mounted, and leaves no device.
func TestNoFilesystem(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	for name, content := range map[string][]byte{
		"anything":   bytes.Repeat([]byte("data"), 1000),
		"superblock": append(make([]byte, 1024+0x38), 0x53, 0xef),
	} {
		id := x.volume(name, nil)
		f := must[*os.File](t)(os.OpenFile(x.volumes.image(id), os.O_RDWR, 0))
		must[int](t)(f.WriteAt(content, 0))
		x.ok(f.Close())
		if err := x.stage(id); err == nil {
			t.Errorf("%s was staged", name)
		}
		noLoops(t, string(x.volumes))
		if got := x.read(x.volumes.image(id), len(content)); got != string(content) {
			t.Errorf("%s was overwritten", name)
		}
		x.ok(x.unstage(id))
		x.ok(x.delete(id))
	}
}
