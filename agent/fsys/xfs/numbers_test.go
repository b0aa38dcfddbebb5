package xfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestLargeVolume has 4 TiB, so that inode numbers take more than 32 bits, in short-form
// directories, too.
func TestLargeVolume(t *testing.T) {
	img := makeImage(t, 4<<40, "-l", "size=64m")
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	for i := range 20 { // directories go to the groups in turn
		d := filepath.Join(dir, fmt.Sprintf("d%d", i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 1 + i*i {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file %d", j)), fmt.Appendf(nil, "%d %d", i, j), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := fixture.Manifest(t, dir)
	stat := statfs(t, dir)
	fixture.Unmount(t, dir)
	fs := openImage(t, img)
	fsystest.Run(t, fs, want)
	if total := stat.Blocks * uint64(stat.Bsize); fs.Info().Total != total {
		t.Errorf("%d bytes, the kernel says %d", fs.Info().Total, total)
	}
	wide := fsys.Ino(0)
	for _, e := range want {
		wide = max(wide, fsys.Ino(e.Ino))
	}
	root, err := fs.inode(fs.Root())
	if err != nil || wide < 1<<32 || root.data.format != formatLocal || root.data.raw[1] == 0 {
		t.Errorf("the largest inode is %d, the root has format %d, %v", wide, root.data.format, err)
	}
}
