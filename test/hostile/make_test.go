package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// xfs makes an XFS of the files in src; where clean is not set its log holds changes.
func xfs(t testing.TB, path, src string, clean bool) string {
	t.Helper()
	fixture.Sparse(t, path, 320<<20)
	fixture.Run(t, "mkfs.xfs", "-q", "-f", "-L", "root", path)
	dir := fixture.Mount(t, path, "xfs", "", 0, 320<<20)
	fixture.Run(t, "cp", "-a", src+"/.", dir)
	if !clean {
		fixture.Run(t, "sync", "-f", dir)
		fixture.Run(t, "sh", "-c", `for i in $(seq 200); do echo D >"$0/many/later $i"; done; mv "$0/deep" "$0/moved"; rm "$0/many/file number 01"*`, dir)
		fixture.Shutdown(t, dir, true)
	}
	fixture.Unmount(t, dir)
	return path
}

// xfs4 makes an XFS of version 4, which has no checksums. Kernels no longer mount it, so
// mkfs.xfs itself fills it, from a prototype file.
func xfs4(t testing.TB, path, src string) string {
	t.Helper()
	fixture.Sparse(t, path, 320<<20)
	var b strings.Builder
	b.WriteString("/\n0 0\n")
	proto(t, &b, src)
	b.WriteString("$\n")
	file := path + ".proto"
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "mkfs.xfs", "-q", "-f", "-m", "crc=0", "-p", file, path)
	return path
}

// proto describes a folder for mkfs.xfs. Names with spaces cannot be told there.
func proto(t testing.TB, b *strings.Builder, dir string) {
	t.Helper()
	b.WriteString("d--755 0 0\n")
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		name := strings.ReplaceAll(e.Name(), " ", "_")
		switch path := filepath.Join(dir, e.Name()); {
		case e.IsDir():
			fmt.Fprintf(b, "%s ", name)
			proto(t, b, path)
			b.WriteString("$\n")
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(b, "%s l--777 0 0 %s\n", name, target)
		case e.Name() != "sparse":
			// The path must have no space either.
			link := filepath.Join(t.TempDir(), "f")
			if err := os.Link(path, link); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(b, "%s ---644 0 0 %s\n", name, link)
		}
	}
}

func ntfs(t testing.TB, path, src string) string {
	t.Helper()
	fixture.Sparse(t, path, 16<<20)
	fixture.Run(t, "mkntfs", "-q", "-F", "-L", "data", path)
	dir := path + ".mnt"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "ntfs-3g", "-o", "streams_interface=xattr,compression", path, dir)
	defer fixture.Run(t, "umount", dir)
	fixture.Run(t, "cp", "-r", src+"/.", dir)
	fixture.Run(t, "ln", dir+"/empty", dir+"/hard")
	fixture.Run(t, "setfattr", "-n", "user.stream", "-v", "an alternate data stream", dir+"/empty")
	packed := dir + "/packed"
	fixture.Run(t, "mkdir", packed)
	fixture.Run(t, "setfattr", "-h", "-n", "system.ntfs_attrib_be", "-v", "0x00000810", packed)
	if err := os.WriteFile(packed+"/text", []byte(strings.Repeat("compressible text, which repeats; ", 8000)), 0o644); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "truncate", "-s", "3G", dir+"/sparse")
	return path
}

func fat(t testing.TB, path, bits, src string) string {
	t.Helper()
	size := map[string]int64{"12": 2 << 20, "16": 16 << 20, "32": 40 << 20}[bits]
	fixture.Sparse(t, path, size)
	fixture.Run(t, "mkfs.vfat", "-F", bits, "-s", "1", "-n", "DATA", path)
	es, err := filepath.Glob(src + "/*")
	if err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "mcopy", append(append([]string{"-s", "-i", path}, es...), "::/")...)
	return path
}

// gpt and mbr put a file system into a partition table.
func gpt(t testing.TB, path, fs string) string {
	t.Helper()
	return partitioned(t, path, fs, "label: gpt\nstart=2048,size=16384,name=\"root\"\nstart=18432,size=2048\n")
}

func mbr(t testing.TB, path, fs string) string {
	t.Helper()
	return partitioned(t, path, fs, "label: dos\nstart=2048,size=16384,type=83\nstart=18432,size=8192,type=5\nstart=20480,size=2048,type=83\n")
}

func partitioned(t testing.TB, path, fs, table string) string {
	t.Helper()
	fixture.Sparse(t, path, 16<<20)
	fixture.Run(t, "sh", "-c", `printf %s "$1" | sfdisk -q "$0"`, path, table)
	fixture.Run(t, "dd", "if="+fs, "of="+path, "bs=1M", "seek=1", "conv=notrunc", "status=none")
	return path
}

// lvm makes a striped volume over two disks.
func lvm(t testing.TB, dir, fs string) []string {
	t.Helper()
	disks := []string{filepath.Join(dir, "pv0.raw"), filepath.Join(dir, "pv1.raw")}
	fixture.Stripe(t, fs, "vg", "data", 10<<20, disks...)
	return disks
}
