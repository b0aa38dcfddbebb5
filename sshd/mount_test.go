package sshd

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/test/fixture"
)

// guest is a tree with what a real system has, for mke2fs.
func guest(t testing.TB) string {
	dir := sample(t)
	for i := range 300 {
		write(t, dir, fmt.Sprintf("many/%03d/file-%d", i%7, i), strings.Repeat(fmt.Sprint(i), i))
	}
	for _, n := range []string{"new\nline", "bad\xff\xfeutf8", strings.Repeat("n", 255)} {
		write(t, dir, "names/"+n, "content of "+n)
	}
	big := make([]byte, 9<<20+77)
	for i := range big {
		big[i] = byte(i * i >> 9)
	}
	write(t, dir, "big", string(big))
	write(t, dir, "sparse", "start")
	if err := os.Truncate(filepath.Join(dir, "sparse"), 5<<20); err != nil {
		t.Fatal(err)
	}
	for i, n := range []string{"owned", "setuid", "nobody"} {
		write(t, dir, n, n)
		p := filepath.Join(dir, n)
		if err := os.Chown(p, i*33000, i*70001); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, []os.FileMode{0o600, 0o755 | os.ModeSetuid, 0}[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "owned"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	for n, dev := range map[string]uint32{"null": unix.S_IFCHR | 0o666, "sda": unix.S_IFBLK | 0o660, "fifo": unix.S_IFIFO | 0o600, "sock": unix.S_IFSOCK | 0o777} {
		if err := unix.Mknod(filepath.Join(dir, n), dev, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// walk describes a mounted tree as SFTP can show it: one line for each object. readlink takes
// a path relative to root.
func walk(t testing.TB, root string, readlink func(string) (string, error)) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		line := fmt.Sprintf("%o %d:%d mtime %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := readlink(rel)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFREG:
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			n, err := io.Copy(h, f)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d of %d %x", n, st.Size, h.Sum(nil))
		}
		out[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func below(root string) func(string) (string, error) {
	return func(rel string) (string, error) { return os.Readlink(filepath.Join(root, rel)) }
}

// TestSSHFS mounts an ext4 image by our server and by the kernel and compares every object.
func TestSSHFS(t *testing.T) {
	fixture.Need(t, "sshfs", "mke2fs", "losetup", "fusermount3")
	fixture.NeedRoot(t)
	img := fixture.Ext4(t, guest(t), 64<<20)
	kernel := fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	r := serve(t, newTree(t, engine.Native(), fixture.OpenRaw(t, img)), nil)
	mnt := t.TempDir()
	args := append(r.options(), "oadp@"+r.host+":/backups/b/d", mnt, "-o", "ro,max_read=65536")
	if out, errs, status := r.run("", "sshfs", args...); status != 0 {
		t.Fatalf("sshfs: %s%s", out, errs)
	}
	t.Cleanup(func() { _ = exec.Command("fusermount3", "-u", "-z", mnt).Run() })
	// sshfs itself hides the targets of links that lead out of its mount, so they come from
	// the server directly.
	c := r.client()
	want := walk(t, kernel, below(kernel))
	got := walk(t, mnt, func(rel string) (string, error) { return c.ReadLink("/backups/b/d/" + rel) })
	if len(want) < 300 {
		t.Fatalf("the kernel shows %d objects only", len(want))
	}
	for p, w := range want {
		if g := got[p]; g != w {
			t.Errorf("%q:\n kernel %s\n sshfs  %s", p, w, g)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q is not in the image", p)
		}
	}
	// Reading in the middle and beyond the end, as programs on a mount do.
	a, b := make([]byte, 200_000), make([]byte, 200_000)
	for _, off := range []int64{0, 1, 65_535, 4<<20 + 3, 9 << 20, 9<<20 + 76, 9<<20 + 77} {
		fa, err := os.Open(filepath.Join(kernel, "big"))
		if err != nil {
			t.Fatal(err)
		}
		fb, err := os.Open(filepath.Join(mnt, "big"))
		if err != nil {
			t.Fatal(err)
		}
		na, _ := fa.ReadAt(a, off)
		nb, _ := fb.ReadAt(b, off)
		if string(a[:na]) != string(b[:nb]) {
			t.Errorf("at %d: %d and %d bytes differ", off, na, nb)
		}
		fa.Close()
		fb.Close()
	}
	if err := os.WriteFile(filepath.Join(mnt, "new"), nil, 0o644); err == nil {
		t.Error("a file can be written")
	}
}

// TestRecursiveGet copies an image's tree with OpenSSH's client and compares it with the kernel's.
func TestRecursiveGet(t *testing.T) {
	fixture.Need(t, "sftp", "mke2fs", "losetup")
	fixture.NeedRoot(t)
	img := fixture.Ext4(t, guest(t), 64<<20)
	kernel := fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	r := serve(t, newTree(t, engine.Native(), fixture.OpenRaw(t, img)), nil)
	_, errs, _ := r.sftp("-get -r -p /backups/b/d copy")
	copied := filepath.Join(r.dir, "copy")
	want, got := walk(t, kernel, below(kernel)), walk(t, copied, below(copied))
	files := 0
	for p, w := range want {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(kernel, p), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue // links are followed or skipped, directories get new times
		}
		files++
		// The client copies neither owner nor set-user-id bits.
		var a, b fields
		a.parse(w)
		b.parse(got[p])
		if a.mtime != b.mtime || a.mode&0o777 != b.mode&0o777 || a.content != b.content {
			t.Errorf("%q:\n kernel %s\n copy   %s\n%s", p, w, got[p], errs)
		}
	}
	if files < 300 {
		t.Errorf("%d files only", files)
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "copy", "null")); err == nil {
		t.Error("a device node was copied")
	}
}

type fields struct {
	mode    uint32
	mtime   int64
	content string
}

func (f *fields) parse(line string) {
	var uid, gid uint32
	_, _ = fmt.Sscanf(line, "%o %d:%d mtime %d", &f.mode, &uid, &gid, &f.mtime)
	_, f.content, _ = strings.Cut(line, " size ")
}
