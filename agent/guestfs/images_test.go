//go:build guestfs

package guestfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

const passphrase = "correct horse"

// images is one backup with everything that only an appliance reads, and ext4 and xfs, left as
// a crash leaves them, which native engines read, too.
type images struct {
	dir    string
	disks  []volume.Disk
	oracle map[string]fsystest.Manifest // what a file system holds, by the name of its case
	ids    map[string]uint64            // btrfs subvolumes
}

func (im *images) add(t *testing.T, name string) {
	im.disks = append(im.disks, volume.Disk{Name: name, Reader: fixture.OpenRaw(t, im.path(name))})
}

func (im *images) path(name string) string { return filepath.Join(im.dir, name+".raw") }

func (im *images) sparse(t *testing.T, name string, size int64) string {
	fixture.Sparse(t, im.path(name), size)
	return im.path(name)
}

func makeImages(t *testing.T) *images {
	fixture.Need(t, "guestfish", "mkfs.btrfs", "mkfs.exfat", "cryptsetup", "mksquashfs", "sgdisk", "mkfs.xfs", "setfacl", "tar")
	fixture.NeedRoot(t)
	im := &images{dir: t.TempDir(), oracle: map[string]fsystest.Manifest{}, ids: map[string]uint64{}}
	im.btrfs(t)
	im.dirty(t, "ext4", "mke2fs", "-q", "-F", "-t", "ext4")
	im.dirty(t, "xfs", "mkfs.xfs", "-q")

	// The rest is made in an appliance: this machine's kernel may have neither dm nor md.
	src := filepath.Join(im.dir, "src")
	populate(t, src)
	m := fixture.Manifest(t, src)
	loosen(m, func(p string, e *fsystest.Entry) {
		e.Ino, e.Blocks, e.Atime, e.Ctime = 0, -1, 0, 0
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size, e.Nlink = -1, 0
		}
	})
	im.oracle["posix"] = m
	fixture.Run(t, "tar", "--xattrs", "--xattrs-include=*", "--acls", "--format=posix", "-C", src, "-cf", filepath.Join(im.dir, "src.tar"), ".")
	m = fixture.Manifest(t, src)
	loosen(m, func(p string, e *fsystest.Entry) { // whole seconds, no access control lists
		e.Ino, e.Blocks, e.Atime, e.Ctime = 0, -1, 0, 0
		e.Mtime -= e.Mtime % 1e9
		for name := range e.Xattrs {
			if strings.HasPrefix(name, "system.") {
				delete(e.Xattrs, name)
			}
		}
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size, e.Nlink = -1, 0
		}
	})
	im.oracle["squash"] = m
	fixture.Run(t, "mksquashfs", src, im.path("squash"), "-quiet", "-no-progress")
	plain := filepath.Join(im.dir, "plain")
	populatePlain(t, plain)
	m = fixture.Manifest(t, plain)
	loosen(m, func(p string, e *fsystest.Entry) {
		e.Ino, e.Blocks, e.Atime, e.Ctime, e.Nlink = 0, -1, 0, 0, 0
		e.Mode |= 0o111 // exFAT has no permissions: Linux shows all of them, without umask
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size = -1
		}
	})
	im.oracle["plain"] = m

	fixture.Run(t, "mkfs.exfat", im.sparse(t, "exfat", 64<<20))
	for name, pass := range map[string]string{"luks": passphrase, "locked": "another passphrase"} {
		key := filepath.Join(im.dir, name+".key")
		if err := os.WriteFile(key, []byte(pass), 0o600); err != nil {
			t.Fatal(err)
		}
		// The cheapest key derivation: its cost is not what is tested.
		fixture.Run(t, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
			im.sparse(t, name, 96<<20), key)
	}
	im.sparse(t, "raid1", 64<<20)
	im.sparse(t, "raid2", 64<<20)
	im.sparse(t, "thin", 160<<20)
	im.guestfish(t, []string{"exfat", "luks", "raid1", "raid2", "thin"}, fmt.Sprintf(`
mount /dev/sda /
copy-in %[1]s/plain/. /
umount /
md-create array "/dev/sdc /dev/sdd" level:raid1
mkfs ext4 /dev/md127
mount /dev/md127 /
-rm-rf /lost+found
tar-in %[1]s/src.tar / xattrs:true acls:true
umount /
pvcreate /dev/sde
vgcreate tvg /dev/sde
debug sh "lvcreate --type thin-pool -L 96M -n pool tvg"
debug sh "lvcreate --thin -V 200M -n data tvg/pool"
mkfs ext4 /dev/tvg/data
mount /dev/tvg/data /
-rm-rf /lost+found
tar-in %[1]s/src.tar / xattrs:true acls:true
umount /
cryptsetup-open /dev/sdb crypt
%[2]s
pvcreate /dev/mapper/crypt
vgcreate cvg /dev/mapper/crypt
lvcreate-free root cvg 100
mkfs ext4 /dev/cvg/root
mount /dev/cvg/root /
-rm-rf /lost+found
tar-in %[1]s/src.tar / xattrs:true acls:true
umount-all
`, im.dir, passphrase))
	for _, n := range []string{"btrfs", "ext4", "xfs", "exfat", "luks", "locked", "raid1", "raid2", "thin", "squash"} {
		im.add(t, n)
	}
	return im
}

// guestfish runs a script in an appliance with the named disks. It reads keys from the script's
// next line.
func (im *images) guestfish(t *testing.T, disks []string, script string) {
	t.Helper()
	args := []string{"--keys-from-stdin", "--rw"}
	for _, d := range disks {
		args = append(args, "--format=raw", "-a", im.path(d))
	}
	cmd := exec.Command("guestfish", args...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	cmd.Stdin = strings.NewReader("run\n" + script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("guestfish: %v\n%s", err, out)
	}
}

// loosen lets an oracle leave out what a copy or another format does not keep.
func loosen(m fsystest.Manifest, change func(string, *fsystest.Entry)) {
	for p, e := range m {
		e.Data = nil // libguestfs cannot tell holes
		change(p, &e)
		m[p] = e
	}
}

// btrfs makes a partition with subvolumes: root (the default), home inside it, and a snapshot.
func (im *images) btrfs(t *testing.T) {
	img := im.sparse(t, "btrfs", 400<<20)
	fixture.Run(t, "sgdisk", "-n", "1:2048:0", img)
	part := im.sparse(t, "btrfs-part", 398<<20)
	fixture.Run(t, "mkfs.btrfs", "-q", "-L", "tree", part)
	dir := fixture.Mount(t, part, "btrfs", "compress=zstd", 0, 0)
	run := func(args ...string) { fixture.Run(t, "btrfs", append([]string{"-q", "subvolume"}, args...)...) }
	run("create", dir+"/root")
	populate(t, dir+"/root/etc")
	// Before there is a subvolume inside: a snapshot's stand-in for one has made-up times.
	run("snapshot", "-r", dir+"/root", dir+"/snap 1")
	run("create", dir+"/root/home")
	populate(t, dir+"/root/home/user")
	if err := os.WriteFile(dir+"/root/later", []byte("after the snapshot"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(fixture.Run(t, "btrfs", "subvolume", "list", dir), "\n") {
		var id, gen, top uint64
		if _, err := fmt.Sscanf(line, "ID %d gen %d top level %d path", &id, &gen, &top); err == nil {
			_, path, _ := strings.Cut(line, " path ")
			im.ids[path] = id
		}
	}
	run("set-default", fmt.Sprint(im.ids["root"]), dir)
	fixture.Unmount(t, dir)
	for name, opt := range map[string]string{"btrfs:": "subvolid=5", "btrfs:root": "subvol=root", "btrfs:snap 1": "subvol=snap 1"} {
		dir := fixture.Mount(t, part, "btrfs", "ro,"+opt, 0, 0)
		m := fixture.Manifest(t, dir)
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			t.Fatal(err)
		}
		top := st.Dev
		loosen(m, func(p string, e *fsystest.Entry) {
			if err := unix.Lstat(filepath.Join(dir, p), &st); err != nil || st.Dev != top {
				e.Ino = 0 // another subvolume's numbers
			}
		})
		im.oracle[name] = m
		fixture.Unmount(t, dir)
	}
	fixture.Run(t, "dd", "if="+part, "of="+img, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
	if err := os.Remove(part); err != nil {
		t.Fatal(err)
	}
}

// dirty makes a file system and stops it as a crash does, with its log full.
func (im *images) dirty(t *testing.T, kind string, mkfs ...string) {
	img := im.sparse(t, kind, 320<<20)
	fixture.Run(t, mkfs[0], append(mkfs[1:], img)...)
	dir := fixture.Mount(t, img, kind, "noatime", 0, 0)
	populate(t, dir+"/tree")
	if err := fixture.Churn(dir, 5, 150, nil); err != nil {
		t.Fatal(err)
	}
	fixture.Shutdown(t, dir, true)
	fixture.Unmount(t, dir)
	again := fixture.Copy(t, img)
	replayed := fixture.Mount(t, again, kind, "noatime", 0, 0)
	m := fixture.Manifest(t, replayed)
	loosen(m, func(string, *fsystest.Entry) {})
	im.oracle[kind] = m
	fixture.Unmount(t, replayed)
}

// populate fills a new folder with one of everything.
func populate(t *testing.T, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(dir, 0o755))
	at := func(p string) string { return filepath.Join(dir, p) }
	rng := rand.New(rand.NewPCG(3, 4))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	check(os.WriteFile(at("large"), noise(5<<20+12345), 0o640))
	check(os.WriteFile(at("text"), bytes.Repeat([]byte("compresses well\n"), 70_000), 0o600))
	check(os.WriteFile(at("empty"), nil, 0o444))
	check(os.WriteFile(at("small"), []byte("small"), 0o755))
	check(os.Chown(at("small"), 1234, 70000))
	check(os.Link(at("small"), at("hard link")))
	check(os.Symlink("small", at("link")))
	check(os.Symlink(strings.Repeat("long/", 200), at("long link")))
	check(os.WriteFile(at("not utf-8 \xff\xfe"), []byte("x"), 0o644))
	check(os.WriteFile(at("new\nline"), []byte("y"), 0o644))
	check(os.WriteFile(at(strings.Repeat("ä", 127)), []byte("z"), 0o644))
	check(unix.Mkfifo(at("fifo"), 0o600))
	check(unix.Mknod(at("device"), unix.S_IFCHR|0o660, int(unix.Mkdev(1, 3))))
	f, err := os.Create(at("sparse"))
	check(err)
	_, err = f.WriteAt([]byte("behind a hole"), 3<<20)
	check(err)
	check(f.Truncate(4 << 20))
	check(f.Close())
	check(unix.Setxattr(at("small"), "user.note", noise(300), 0))
	check(unix.Setxattr(at("text"), "user.empty", nil, 0))
	check(unix.Setxattr(at("small"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	fixture.Run(t, "setfacl", "-m", "u:1001:r--,g:1002:rw-", at("text"))
	check(os.MkdirAll(at("a/b/c/d/e"), 0o711))
	check(os.WriteFile(at("a/b/c/d/e/deep"), []byte("deep"), 0o644))
	fixture.Run(t, "setfacl", "-d", "-m", "u:1001:rwx", at("a"))
	check(os.Mkdir(at("many"), 0o755))
	for i := range 1200 { // more than one batch of libguestfs
		check(os.WriteFile(at(fmt.Sprintf("many/file %04d", i)), nil, 0o644))
	}
	times := []unix.Timespec{{Sec: 1, Nsec: 0}, {Sec: 1234567890, Nsec: 123456789}}
	check(unix.UtimesNanoAt(unix.AT_FDCWD, at("empty"), times, 0))
}

// populatePlain fills a folder with what a format without owners and links keeps.
func populatePlain(t *testing.T, dir string) {
	t.Helper()
	for name, n := range map[string]int{"a.txt": 10, "Ünïcode ☃ 𝄞.bin": 300_000, "sub/b": 1 << 20, "sub/deeper/c": 0} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, bytes.Repeat([]byte{byte(n)}, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1700000000, 0)
	for _, name := range []string{"a.txt", "Ünïcode ☃ 𝄞.bin", "sub/b", "sub/deeper/c", "sub/deeper", "sub"} {
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
}
