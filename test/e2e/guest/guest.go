// Package guest makes the disks of a virtual machine with the standard tools, in two states, and says
// what the kernel shows of each.
//
//	root  qcow2  GPT  p1 ext4 /      | p2 one stripe of the group "vg0"
//	data  raw    GPT  p1 xfs  /data  | p2 the other stripe
//	group vg0    volume "srv", ext4, /srv
//
// So whoever shows the machine's files reads two image formats, both partition tables, a volume group
// that spans them, three file systems and /etc/fstab.
//
// Non-goal: an operating system that boots. It needs root and loop devices.
package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

const (
	mib = int64(1) << 20

	// DataSize is the size of the data disk and of a Block volume for it, so that the partition
	// table's second copy lies at the volume's end.
	DataSize = 400 * mib
	rootSize = 256 * mib

	systemSize  = 192 * mib
	archiveSize = 320 * mib // the least that mkfs.xfs takes is 300 MiB
	stripeSize  = 48 * mib
	srvSize     = 64 * mib

	first = 1 * mib // where a disk's first partition begins
)

// Big is a file on the data disk for transfers that take a while, below the machine's root. It is
// there after the work, BigSize bytes long, of which one in sixteen is data.
const (
	Big     = "data/big.bin"
	BigSize = 1024 * mib
)

// State is the machine at one moment.
type State struct {
	Root  string            // path of a qcow2 image
	Data  string            // path of a raw image of DataSize bytes
	Files fsystest.Manifest // below "/", with what fstab mounts
}

// Guest is a machine whose files change.
type Guest struct {
	system, archive, srv string // file systems, flat
}

const fstab = `# /etc/fstab
LABEL=system       /      ext4  defaults  0 1
UUID=%s /data  xfs   defaults  0 0
/dev/vg0/srv       /srv   ext4  defaults  0 2
`

const archiveID = "3c9f3a52-5f0b-4c5e-9b1d-0d5f0a7c2e11"

// New makes the file systems, each with its files.
func New(t testing.TB) *Guest {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "sgdisk", "mke2fs", "mkfs.xfs", "qemu-img", "pvcreate", "setfattr", "setfacl", "setcap", "dd")
	dir := t.TempDir()
	g := &Guest{system: filepath.Join(dir, "system.ext4"), archive: filepath.Join(dir, "archive.xfs"), srv: filepath.Join(dir, "srv.ext4")}
	fixture.Sparse(t, g.system, systemSize)
	fixture.Ext4At(t, g.system, 0, systemSize, "", "-L", "system")
	fixture.Sparse(t, g.archive, archiveSize)
	fixture.Run(t, "mkfs.xfs", "-q", "-m", "uuid="+archiveID, g.archive)
	fixture.Sparse(t, g.srv, srvSize)
	fixture.Ext4At(t, g.srv, 0, srvSize, "")
	g.Change(t, g.install)
	return g
}

// Change calls change with the folder of the machine's root, everything mounted below it.
func (g *Guest) Change(t testing.TB, change func(t testing.TB, root string)) {
	t.Helper()
	g.mounted(t, "rw", change)
}

// mounted mounts the file systems as fstab says while use runs.
func (g *Guest) mounted(t testing.TB, options string, use func(t testing.TB, root string)) {
	t.Helper()
	root := fixture.Mount(t, g.system, "ext4", options, 0, systemSize)
	// All guests' are of one UUID, and the kernel mounts one at a time unless told that they are others.
	archive := fixture.Mount(t, g.archive, "xfs", options+",nouuid", 0, archiveSize)
	srv := fixture.Mount(t, g.srv, "ext4", options, 0, srvSize)
	for from, at := range map[string]string{archive: filepath.Join(root, "data"), srv: filepath.Join(root, "srv")} {
		if options != "ro" {
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		fixture.Run(t, "mount", "--bind", from, at)
	}
	use(t, root)
	for _, at := range []string{filepath.Join(root, "data"), filepath.Join(root, "srv")} {
		fixture.Run(t, "umount", at)
	}
	for _, m := range []string{srv, archive, root} {
		fixture.Unmount(t, m)
	}
}

// State assembles the disks as they are now and asks the kernel what is on them.
func (g *Guest) State(t testing.TB) State {
	t.Helper()
	dir := t.TempDir()
	s := State{Root: filepath.Join(dir, "root.qcow2"), Data: filepath.Join(dir, "data.raw")}
	g.mounted(t, "ro", func(t testing.TB, root string) { s.Files = fixture.Manifest(t, root) })

	stripes := []string{filepath.Join(dir, "stripe0"), filepath.Join(dir, "stripe1")}
	fixture.Stripe(t, g.srv, "vg0", "srv", stripeSize, stripes...)
	raw := filepath.Join(dir, "root.raw")
	disk(t, raw, rootSize, part{g.system, systemSize, "8300"}, part{stripes[0], stripeSize, "8e00"})
	disk(t, s.Data, DataSize, part{g.archive, archiveSize, "8300"}, part{stripes[1], stripeSize, "8e00"})
	fixture.Run(t, "qemu-img", "convert", "-O", "qcow2", raw, s.Root)
	for _, f := range append(stripes, raw) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// part is a partition: what it holds, its size, and sgdisk's code of its type.
type part struct {
	content string
	size    int64
	kind    string
}

// disk makes a raw disk of size bytes with a GPT and the given partitions, one behind the other.
func disk(t testing.TB, path string, size int64, parts ...part) {
	t.Helper()
	fixture.Sparse(t, path, size)
	var args []string
	start := first
	for i, p := range parts {
		args = append(args, "-n", fmt.Sprintf("%d:%d:%d", i+1, start/512, (start+p.size)/512-1), "-t", fmt.Sprintf("%d:%s", i+1, p.kind))
		start += p.size
	}
	fixture.Run(t, "sgdisk", append(args, path)...)
	start = first
	for _, p := range parts {
		fixture.Run(t, "dd", "if="+p.content, "of="+path, "bs=1M", fmt.Sprintf("seek=%d", start/mib), "conv=notrunc,sparse", "status=none")
		start += p.size
	}
}
