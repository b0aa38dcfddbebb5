package xfs

import (
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

func openReader(t testing.TB, r extent.Reader) *FS {
	t.Helper()
	fs, err := Open(r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	return openReader(t, fixture.OpenDevice(t, img))
}

// makeImage makes a sparse file of size bytes that holds an XFS file system.
func makeImage(t testing.TB, size int64, opts ...string) string {
	t.Helper()
	fixture.Need(t, "mkfs.xfs")
	img := filepath.Join(t.TempDir(), "xfs.raw")
	fixture.Sparse(t, img, size)
	// Without --unsupported mkfs.xfs makes nothing below 300 MiB.
	fixture.Run(t, "mkfs.xfs", append([]string{"-q", "-f", "--unsupported", "-d", "file,name=" + img + ",size=" + strconv.FormatInt(size, 10)}, opts...)...)
	return img
}

func statfs(t testing.TB, dir string) unix.Statfs_t {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st
}
