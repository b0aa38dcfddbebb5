package ntfs

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// makeNTFS makes a plain file of size bytes that holds an NTFS file system.
func makeNTFS(t testing.TB, size int64, opts ...string) string {
	t.Helper()
	fixture.Need(t, "mkntfs", "ntfs-3g", "fusermount3")
	img := filepath.Join(t.TempDir(), "ntfs.raw")
	fixture.Sparse(t, img, size)
	fixture.Run(t, "mkntfs", append(append([]string{"-F", "-q", "-Q", "-p", "0", "-H", "0", "-S", "0"}, opts...), img)...)
	return img
}

// mount mounts a plain file with ntfs-3g; it is unmounted when the test ends, or by unmount.
func mount(t testing.TB, img string, options ...string) string {
	t.Helper()
	fixture.NeedRoot(t)
	dir := t.TempDir()
	fixture.Run(t, "ntfs-3g", "-o", strings.Join(append([]string{"streams_interface=xattr", "atime"}, options...), ","), img, dir)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

// unmount returns when ntfs-3g has written everything.
func unmount(t testing.TB, img, dir string) {
	t.Helper()
	fixture.Run(t, "umount", dir)
	// umount returns before the file system's process has ended; it holds a lock on the image.
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &lock); err != nil {
		t.Fatal(err)
	}
}

// manifest is the tree as a fresh read-only mount shows it, with what ntfs-3g does not list.
func manifest(t testing.TB, img string) fsystest.Manifest {
	t.Helper()
	dir := mount(t, img, "ro", "noatime")
	m := fixture.Manifest(t, dir)
	for path, e := range m {
		want := map[string]string{}
		for k, v := range e.Xattrs { // ntfs-3g shows streams as user.<name>
			if name, ok := strings.CutPrefix(k, "user."); ok {
				want["user.ads."+name] = v
			}
		}
		for _, name := range []string{xattrACL, xattrAttrib, xattrReparse, xattrObject, xattrEA, xattrDOSName} {
			b := make([]byte, 64<<10)
			if n, err := unix.Lgetxattr(filepath.Join(dir, path), name, b); err == nil {
				want[name] = string(b[:n])
			}
		}
		e.Xattrs = want
		e.Data = nil // FUSE without SEEK_HOLE: everything is data
		// ntfs-3g makes what lies in the volume absolute through its mount point.
		if rest, ok := strings.CutPrefix(e.Target, dir); ok {
			e.Target = strings.Repeat("../", strings.Count(path, "/")) + strings.TrimPrefix(rest, "/")
			e.Size = int64(len(e.Target))
		}
		m[path] = e
	}
	fixture.Run(t, "umount", dir)
	return m
}

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	fs, err := Open(fixture.OpenDevice(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a file with its directories.
func write(t testing.TB, path string, b []byte) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, b, 0o644))
}

func utf16le(s string) []byte {
	u, ok := encodeName(s)
	if !ok {
		panic(s) // a constant of a test
	}
	var b []byte
	for _, c := range u {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// reparseLink is a junction's or symbolic link's reparse point.
func reparseLink(tag uint32, target string, flags uint32) []byte {
	le := binary.LittleEndian
	s := utf16le(target)
	d := le.AppendUint16(nil, 0)
	d = le.AppendUint16(d, uint16(len(s)))
	if tag == tagMountPoint { // its names end with zeros
		d = le.AppendUint16(d, uint16(len(s)+2))
		d = le.AppendUint16(d, uint16(len(s)))
		d = append(append(append(append(d, s...), 0, 0), s...), 0, 0)
	} else {
		d = le.AppendUint16(d, uint16(len(s)))
		d = le.AppendUint16(d, uint16(len(s)))
		d = le.AppendUint32(d, flags)
		d = append(append(d, s...), s...)
	}
	return reparsePoint(tag, d)
}

func reparsePoint(tag uint32, data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, tag)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(data)))
	return append(append(b, 0, 0), data...)
}

func setReparse(t testing.TB, path string, b []byte) {
	t.Helper()
	check(t, unix.Setxattr(path, xattrReparse, b, 0))
}

func find(t testing.TB, fs *FS, path string) fsys.Ino {
	t.Helper()
	ino, err := fsystest.Find(fs, path)
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	return ino
}
