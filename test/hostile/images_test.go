// Package hostile holds the test that damages real images of every format anywhere: whatever a
// guest wrote, the tree over it answers, in bounded time and memory, and the same each time.
//
// The formats' own tests damage chosen structures and check what is said of them; this one
// damages what nobody thought of.
package hostile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/image"
	"vmfr/test/fixture"
)

// base is a sound set of disks, of which one is damaged.
type base struct {
	name  string
	disks []disk
	// marks are the places worth damaging: 512-byte sectors that hold something other than
	// the content of files, as disk index and sector number.
	marks []mark
}

type disk struct {
	path   string
	format image.Format
}

type mark struct {
	disk   int
	sector int64
}

const sectorSize = 512

// content fills the files. Sectors that hold nothing else are not worth damaging: they are read
// as they are.
const content = 'D'

// populate makes a small tree with what every format has; links where they are possible.
func populate(t testing.TB, dir string, links bool) {
	t.Helper()
	write := func(name string, size int) {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{content}, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"etc", "many", "deep/a/b/c/d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/os-release", 40)
	if err := os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte("LABEL=root / auto defaults 0 1\nLABEL=data /many auto defaults 0 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write("empty", 0)
	write("large file with a long name.bin", 300<<10)
	write("deep/a/b/c/d/leaf", 5000)
	for i := range 120 {
		write(fmt.Sprintf("many/file number %03d.txt", i), i*10)
	}
	if !links {
		return
	}
	for _, e := range []error{
		os.Link(filepath.Join(dir, "empty"), filepath.Join(dir, "many/hard")),
		os.Symlink("../etc/fstab", filepath.Join(dir, "many/soft")),
		os.Symlink(strings.Repeat("x/", 200)+"y", filepath.Join(dir, "many/long")),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	fixture.Run(t, "truncate", "-s", "3G", filepath.Join(dir, "sparse"))
	fixture.Run(t, "sh", "-c", `for i in $(seq 0 40); do printf D | dd of="$0" bs=1 seek=$((i*40960)) conv=notrunc status=none; done`, filepath.Join(dir, "pieces"))
}

// attributes needs a file system that has them.
func attributes(t testing.TB, dir string) {
	t.Helper()
	fixture.Run(t, "setfattr", "-n", "user.short", "-v", "value", filepath.Join(dir, "empty"))
	fixture.Run(t, "setfattr", "-n", "user.long", "-v", strings.Repeat("D", 900), filepath.Join(dir, "etc"))
}

// bases makes an image of every format that a native engine reads, with and without checksums
// where there is a choice: checksums find most damage before the parser does.
func bases(t testing.TB) []base {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "mke2fs", "mkfs.xfs", "mkntfs", "ntfs-3g", "mkfs.vfat", "mcopy", "qemu-img", "sfdisk", "pvcreate", "setfattr", "xfs_io")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	linux, plain := at("linux"), at("plain")
	for _, d := range []string{linux, plain} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	populate(t, linux, true)
	attributes(t, linux)
	populate(t, plain, false)
	raw := func(name string, paths ...string) base {
		b := base{name: name}
		for _, p := range paths {
			b.disks = append(b.disks, disk{p, image.FormatRaw})
		}
		return b
	}

	ext4 := at("ext4.raw")
	fixture.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum,inline_data", "-L", "root", "-d", linux, ext4, "16M")
	sums := at("ext4-sums.raw")
	fixture.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", linux, sums, "16M")
	ext2 := at("ext2.raw")
	fixture.Run(t, "mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", linux, ext2, "8M")
	all := []base{raw("ext4", ext4), raw("ext4 with checksums", sums), raw("ext2", ext2),
		raw("xfs", xfs(t, at("xfs.raw"), linux, true)), raw("xfs, dirty log", xfs(t, at("dirty.raw"), linux, false)),
		raw("xfs without checksums", xfs4(t, at("xfs4.raw"), linux)),
		raw("ntfs", ntfs(t, at("ntfs.raw"), plain)), raw("gpt, mbr", gpt(t, at("gpt.raw"), ext2), mbr(t, at("mbr.raw"), ext2)),
		raw("lvm", lvm(t, dir, ext2)...)}
	for _, bits := range []string{"12", "16", "32"} {
		all = append(all, raw("fat"+bits, fat(t, at("fat"+bits+".raw"), bits, plain)))
	}
	for _, how := range [][]string{{"-o", "cluster_size=4k"}, {"-c"}, {"-c", "-o", "compression_type=zstd"}} {
		path := at(fmt.Sprintf("%d.qcow2", len(all)))
		fixture.Run(t, "qemu-img", append(append([]string{"convert", "-O", "qcow2"}, how...), ext2, path)...)
		all = append(all, base{name: "qcow2 " + strings.Join(how, " "), disks: []disk{{path, image.FormatQCOW2}}})
	}
	for i := range all {
		all[i].survey(t)
	}
	return all
}

// survey finds the marks.
func (b *base) survey(t testing.TB) {
	t.Helper()
	for i, d := range b.disks {
		r := fixture.OpenRaw(t, d.path)
		buf := make([]byte, 1<<20)
		for off := int64(0); off < r.Size(); {
			x, err := r.Extent(off, min(int64(len(buf)), r.Size()-off))
			if err != nil {
				t.Fatal(err)
			}
			if !x.Zero {
				p := buf[:x.Len]
				if _, err := extent.ReadFull(r, p, off); err != nil {
					t.Fatal(err)
				}
				for k := 0; k+sectorSize <= len(p); k += sectorSize {
					s := p[k : k+sectorSize]
					if len(bytes.Trim(s, "\x00")) > 0 && len(bytes.Trim(s, "\x00D")) > 0 {
						b.marks = append(b.marks, mark{i, (off + int64(k)) / sectorSize})
					}
				}
			}
			off += x.Len
		}
	}
	if len(b.marks) < 8 {
		t.Fatalf("%s: only %d sectors hold something", b.name, len(b.marks))
	}
}
