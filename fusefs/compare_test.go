package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// guest makes an ext4 image that holds one of everything, written by the kernel.
func guest(t testing.TB) string {
	t.Helper()
	fixture.Need(t, "mke2fs", "setfacl", "setfattr", "setcap")
	img := fixture.Ext4(t, "", 128<<20)
	dir := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) { t.Helper(); must(os.WriteFile(at(name), data, 0o640)) }

	must(os.MkdirAll(at("a/b/c"), 0o750))
	write("plain", []byte("plain\n"))
	write("empty", nil)
	big := make([]byte, 9<<20+123)
	for i := range big {
		big[i] = byte(i*7 + i>>12)
	}
	write("big", big)
	write("a/b/c/deep", big[:70000])
	must(os.Link(at("big"), at("a/big.link")))
	must(os.Link(at("a/b/c/deep"), at("a/deep.link")))
	must(os.Symlink("../plain", at("a/rel")))
	must(os.Symlink("/plain", at("a/abs")))
	must(os.Symlink(strings.Repeat("x/", 100)+"long", at("a/long")))
	must(unix.Mknod(at("chr"), unix.S_IFCHR|0o620, int(unix.Mkdev(4, 64))))
	must(unix.Mknod(at("blk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(unix.Mkfifo(at("fifo"), 0o600))
	must(unix.Mknod(at("sock"), unix.S_IFSOCK|0o700, 0))
	must(os.Chown(at("plain"), 70000, 4_000_000_000))
	must(unix.Chmod(at("empty"), 0o6755))
	must(unix.Chmod(at("a"), 0o1777))

	for _, name := range []string{"new\nline", "\xff\xfe\x80", strings.Repeat("n", 255), " ", "-rf", "\u00fc"} {
		write(name, []byte(name))
	}
	sparse(t, at("sparse"))
	sparse(t, at("a/hole"), unix.SEEK_END)

	fixture.Run(t, "setfacl", "-m", "u:1234:rw,g:77:r", at("plain"))
	fixture.Run(t, "setfacl", "-d", "-m", "u:1234:rwx", at("a"))
	fixture.Run(t, "setfattr", "-n", "user.note", "-v", strings.Repeat("v", 500), at("plain"))
	fixture.Run(t, "setfattr", "-n", "user.empty", at("plain"))
	fixture.Run(t, "setfattr", "-n", "trusted.t", "-v", "0x00ff00", at("a/b"))
	fixture.Run(t, "setfattr", "-n", "security.selinux", "-v", "system_u:object_r:etc_t:s0", at("big"))
	fixture.Run(t, "setcap", "cap_net_raw+ep", at("empty"))

	must(os.Mkdir(at("many"), 0o755))
	for i := range 20000 {
		f, err := os.OpenFile(at(fmt.Sprintf("many/file-%05d", i)), os.O_CREATE|os.O_WRONLY, 0o644)
		must(err)
		must(f.Close())
	}
	times := []unix.Timespec{{Sec: -86400, Nsec: 123456789}, {Sec: 5_000_000_000, Nsec: 999999999}}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, at("a/b/c/deep"), times, 0))
	fixture.Unmount(t, dir)
	return img
}

// sparse writes islands of data with holes between them, before, or (SEEK_END) nothing at all.
func sparse(t testing.TB, name string, whence ...int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(whence) == 0 {
		for _, off := range []int64{1 << 20, 1<<20 + 64<<10, 5 << 20, 20<<20 - 5} {
			if _, err := f.WriteAt([]byte("island"), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(30<<20 + 1); err != nil {
		t.Fatal(err)
	}
}

// links replaces inode numbers by the first path of each inode: which names are one file.
func links(m fsystest.Manifest) map[string]string {
	first, out := map[uint64]string{}, map[string]string{}
	for _, p := range m.Paths() {
		ino := m[p].Ino
		if _, ok := first[ino]; !ok {
			first[ino] = p
		}
		out[p] = first[ino]
	}
	return out
}

func withoutInodes(m fsystest.Manifest) fsystest.Manifest {
	out := fsystest.Manifest{}
	for p, e := range m {
		e.Ino = 0
		out[p] = e
	}
	return out
}

// diff compares a directory as the kernel's own file system and as FUSE show it.
func diff(t testing.TB, kernel, fuse string) []string {
	t.Helper()
	want, got := fixture.Manifest(t, kernel), fixture.Manifest(t, fuse)
	out := fsystest.Diff(withoutInodes(want), withoutInodes(got))
	wl, gl := links(want), links(got)
	for p, w := range wl {
		if gl[p] != w {
			out = append(out, fmt.Sprintf("%q: linked to %q, want %q", p, gl[p], w))
		}
	}
	sort.Strings(out)
	return out
}

// TestKernelAgrees compares every kind of object with the kernel's own mount of the image.
func TestKernelAgrees(t *testing.T) {
	fixture.Need(t, "rsync", "tar", "getfacl", "find", "cp")
	img := guest(t)
	kernel := fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	_, mnt := serve(t, newTree(t, native{}, img), Options{})
	disk := filepath.Join(mnt, "backups/b/d0")

	t.Run("manifest", func(t *testing.T) {
		for _, d := range diff(t, kernel, disk) {
			t.Error(d)
		}
	})
	commands := map[string]string{
		"tar":   `tar --xattrs --xattrs-include='*' --acls --selinux --sort=name --exclude=./sock --pax-option=exthdr.name=%d/P/%f,delete=atime -cf - . | sha256sum`,
		"cp":    `cp -a --sparse=always big sparse a/hole $OUT/ && cd $OUT && stat -c '%n %s %a %Y' * && sha256sum *`,
		"ls -f": `ls -f many | LC_ALL=C sort | sha256sum`,
	}
	if !testing.Short() { // what one client asks again, one after the other, is nothing new to the race detector
		t.Run("again from the kernel's caches", func(t *testing.T) {
			for _, d := range diff(t, kernel, disk) {
				t.Error(d)
			}
		})
		commands["find -ls"] = `find . -printf '%p %y %m %n %U %G %s %b %T@ %C@ %l\n' | LC_ALL=C sort`
		commands["getfacl"] = `find . -not -type l -print0 | LC_ALL=C sort -z | xargs -0 getfacl -n -p`
		commands["getfattr"] = `find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex`
	}
	for name, cmd := range commands {
		t.Run(name, func(t *testing.T) {
			run := func(dir string) string {
				return fixture.Run(t, "sh", "-c", "OUT="+t.TempDir()+"; cd '"+dir+"' && "+cmd)
			}
			want, got := run(kernel), run(disk)
			if want != got {
				t.Errorf("differs:\nkernel: %.2000s\nfuse:   %.2000s", want, got)
			}
		})
	}
	t.Run("rsync", func(t *testing.T) {
		args := []string{"-n", "-aHAXic", "--delete", "--numeric-ids"}
		if out := fixture.Run(t, "rsync", append(args, disk+"/", kernel+"/")...); out != "" {
			t.Errorf("rsync sees differences:\n%s", out)
		}
	})
}
