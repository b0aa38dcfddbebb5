package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/fsys/ext4/jbd2"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestDirtyOrphans stops a file system with files that are open and have no name any more, and
// with a large truncation just done.
func TestDirtyOrphans(t *testing.T) {
	for _, features := range []string{"extent", "^64bit,^extent", "orphan_file"} {
		t.Run(features, func(t *testing.T) {
			checkDirty(t, dirty(96<<20, []string{"-b", "1024", "-O", features}, "rw,noatime", true, func(t *testing.T, dir string) {
				big := filepath.Join(dir, "big")
				if err := os.WriteFile(big, bytes.Repeat([]byte("big"), 4<<20), 0o644); err != nil {
					t.Fatal(err)
				}
				var gone []string
				for i := range 10 {
					p := filepath.Join(dir, fmt.Sprint("gone", i))
					f, err := os.Create(p)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { f.Close() }) // after the crash, before the unmount
					if _, err := f.Write(bytes.Repeat([]byte(p), 5000)); err != nil {
						t.Fatal(err)
					}
					gone = append(gone, p)
				}
				syncFS(t, dir)
				for _, p := range gone {
					if err := os.Remove(p); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Truncate(big, 1234567); err != nil {
					t.Fatal(err)
				}
				syncOther(t, dir)
			}))
		})
	}
}

// TestDirtyEscaped journals data whose blocks begin with the journal's own magic number, which
// the log stores as zeros.
func TestDirtyEscaped(t *testing.T) {
	for _, features := range []string{"metadata_csum", "^metadata_csum"} {
		t.Run(features, func(t *testing.T) {
			block := make([]byte, 4096)
			binary.BigEndian.PutUint32(block, 0xC03B3998)
			copy(block[4:], "the rest of an escaped block")
			img := checkDirty(t, dirty(64<<20, []string{"-b", "4096", "-O", features}, "rw,noatime,data=journal", true, func(t *testing.T, dir string) {
				for i := range 5 {
					data := bytes.Repeat(block, 8)
					copy(data[4096*i:], "plain") // an ordinary block among them
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				syncOther(t, dir)
			}))
			fs, err := ext4.Open(fixture.OpenRaw(t, img), ext4.Options{})
			if err != nil {
				t.Fatal(err)
			}
			ino, err := fsystest.Find(fs, "f4")
			if err != nil {
				t.Fatal(err)
			}
			r, err := fs.Open(ino)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4096)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, block) {
				t.Errorf("an escaped block begins with %x (%v)", got[:8], err)
			}
		})
	}
}

// TestDirtyRevoked fills the log with blocks of directories that are removed at once, and their
// places with data that the log does not hold: without the revoke records the replay would
// write old directories over new files.
func TestDirtyRevoked(t *testing.T) {
	for _, mkfs := range [][]string{{"-b", "1024"}, {"-b", "1024", "-O", "^metadata_csum,^64bit"}, {"-t", "ext3", "-b", "1024"}} {
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			img := checkDirty(t, dirty(24<<20, append(mkfs, "-J", "size=4"), "rw,noatime,data=ordered", true, func(t *testing.T, dir string) {
				for round := range 2 {
					for i := range 400 {
						if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("d", i)), 0o755); err != nil {
							t.Fatal(err)
						}
					}
					syncOther(t, dir)
					for i := range 400 {
						if err := os.Remove(filepath.Join(dir, fmt.Sprint("d", i))); err != nil {
							t.Fatal(err)
						}
					}
					syncOther(t, dir)
					p := filepath.Join(dir, fmt.Sprint("data", round))
					fill(t, p)
					fsync(t, p)
				}
			}))
			if r := loadJournal(t, img, 1024); r.Revoked == 0 {
				t.Error("no logged block was revoked: this test shows nothing")
			} else {
				t.Logf("%d logged blocks revoked, %d replayed", r.Revoked, r.Blocks)
			}
		})
	}
}

// TestDirtyFastCommit: with fast_commit, either the log needs no fast commit and the tree is exact,
// or the file system is refused as unsupported.
func TestDirtyFastCommit(t *testing.T) {
	for _, fsyncs := range []bool{false, true} {
		t.Run(fmt.Sprintf("fsyncs=%v", fsyncs), func(t *testing.T) {
			// A full commit makes the fast ones before it void. None comes by itself for 300 s.
			crashed := dirty(96<<20, []string{"-b", "4096", "-O", "fast_commit"}, "rw,noatime,commit=300", false, func(t *testing.T, dir string) {
				for i := range 20 {
					p := filepath.Join(dir, fmt.Sprint("file", i))
					f, err := os.Create(p)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := f.Write(bytes.Repeat([]byte(p), 1000)); err != nil {
						t.Fatal(err)
					}
					if i == 10 { // only a full commit can log an xattr
						if err := unix.Setxattr(p, "user.k", []byte("v"), 0); err != nil {
							t.Fatal(err)
						}
						fsync(t, p)
					}
					if i > 10 && fsyncs {
						if err := f.Sync(); err != nil {
							t.Fatal(err)
						}
					}
					f.Close()
				}
			})
			if !fsyncs {
				checkDirty(t, crashed)
				return
			}
			img := crashed(t)
			_, err := ext4.Open(fixture.OpenRaw(t, img), ext4.Options{})
			for n := 1; err == nil && n < dirtyAttempts; n++ { // somebody's sync was a full commit
				checkRecovered(t, img)
				img = crashed(t)
				_, err = ext4.Open(fixture.OpenRaw(t, img), ext4.Options{})
			}
			if !errors.Is(err, fsys.ErrUnsupported) || !strings.Contains(err.Error(), "fast commit") {
				t.Errorf("opened with %v, want ErrUnsupported naming the fast commit", err)
			}
		})
	}
}

// syncOther commits what is in the log by the fsync of a file of its own. Unlike sync it leaves the
// blocks' places on the disk alone.
func syncOther(t *testing.T, dir string) {
	t.Helper()
	p := filepath.Join(dir, "sync")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fsync(t, p)
}

// fill writes a file until no block is free, then shortens it to leave some for metadata.
func fill(t *testing.T, p string) {
	t.Helper()
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk, size := bytes.Repeat([]byte("DATA"), 16<<10), int64(0)
	for {
		n, err := f.Write(chunk)
		size += int64(n)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size - 1<<20); err != nil {
		t.Fatal(err)
	}
}

func fsync(t *testing.T, p string) {
	t.Helper()
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// loadJournal replays an image's journal as debugfs extracts it.
func loadJournal(t *testing.T, img string, blockSize int) *jbd2.Replay {
	t.Helper()
	out := filepath.Join(t.TempDir(), "journal")
	fixture.Run(t, "debugfs", "-c", "-R", "dump <8> "+out, img)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	r, err := jbd2.Load(extent.Bytes(b), jbd2.Config{BlockSize: blockSize, Blocks: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
