package distro

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

const (
	mib       = int64(1) << 20
	espStart  = 1 * mib
	rootStart = 64 * mib
	rootSize  = 1200 * mib
	swapStart = rootStart + rootSize
	diskSize  = swapStart + 64*mib
)

// distro returns a disk with GPT, an EFI system partition, a Debian root on ext4 and swap space,
// as an installer would lay it out, and the tree that was put on it.
func distro(t *testing.T) (disk string) {
	fixture.Need(t, "debootstrap", "sgdisk", "mke2fs", "mkfs.vfat", "mkswap", "qemu-img", "tar")
	fixture.NeedRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "tar", "-C", root, "--xattrs", "--xattrs-include=*", "-xpf", minbase(t))
	fixture.Run(t, "setfattr", "-n", "security.selinux", "-v", "system_u:object_r:etc_t:s0", filepath.Join(root, "etc/hostname"))
	fixture.Run(t, "setfacl", "-m", "u:107:r--", filepath.Join(root, "etc/hostname"))
	fixture.Run(t, "chown", "3000000000:107", filepath.Join(root, "etc/hostname"))
	fixture.Run(t, "ln", filepath.Join(root, "etc/hostname"), filepath.Join(root, "root/second-name"))

	disk = filepath.Join(t.TempDir(), "debian.raw")
	fixture.Sparse(t, disk, diskSize)
	fixture.Run(t, "sgdisk",
		"-n", fmt.Sprintf("1:%d:%d", espStart/512, rootStart/512-1), "-t", "1:ef00", "-c", "1:EFI System",
		"-n", fmt.Sprintf("2:%d:%d", rootStart/512, swapStart/512-1), "-t", "2:8300", "-c", "2:root",
		"-n", "3:0:0", "-t", "3:8200", disk)
	fixture.Run(t, "mkfs.vfat", "-F", "32", "--offset", fmt.Sprint(espStart/512), disk, fmt.Sprint((rootStart-espStart)/1024))
	fixture.Ext4At(t, disk, rootStart, rootSize, root, "-L", "cloudimg-rootfs")
	swap := filepath.Join(t.TempDir(), "swap")
	fixture.Sparse(t, swap, 60*mib)
	fixture.Run(t, "mkswap", swap)
	fixture.Run(t, "dd", "if="+swap, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", swapStart/mib), "conv=notrunc,sparse")
	return disk
}

// minbase returns a tarball of debootstrap's minbase, kept in the user's cache directory.
func minbase(t *testing.T) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // a system account without a home
	}
	tarball := filepath.Join(cache, "vmfr", "debian-minbase.tar")
	if _, err := os.Stat(tarball); err == nil {
		return tarball
	}
	// The archive that this machine installs from.
	out := fixture.Run(t, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
	mirror, release, ok := strings.Cut(strings.SplitN(out, "\n", 2)[0], " ")
	if !ok {
		t.Fatalf("apt knows no package archive: %q", out)
	}
	dir := filepath.Join(t.TempDir(), "minbase")
	fixture.Run(t, "debootstrap", "--variant=minbase", release, dir, mirror)
	if err := os.MkdirAll(filepath.Dir(tarball), 0o755); err != nil {
		t.Fatal(err)
	}
	part := fmt.Sprintf("%s.%d", tarball, os.Getpid())
	fixture.Run(t, "tar", "-C", dir, "--exclude=./var/cache/apt/archives/*.deb", "-cf", part, ".")
	if err := os.Rename(part, tarball); err != nil {
		t.Fatal(err)
	}
	return tarball
}

// comparable strips what two mounts of one file system differ in: inode numbers, and the access
// time, which the kernel's own mount may have changed.
func comparable(m fsystest.Manifest) fsystest.Manifest {
	for p, e := range m {
		e.Ino, e.Atime = 0, 0
		m[p] = e
	}
	return m
}

func TestDistribution(t *testing.T) {
	if testing.Short() {
		t.Skip("debootstrap takes a minute")
	}
	fixture.Need(t, "sftp", "curl", "rsync", "sshfs")
	disk := distro(t)
	qcow := filepath.Join(t.TempDir(), "debian.qcow2")
	fixture.Run(t, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", disk, qcow)
	kernel := fixture.Mount(t, disk, "ext4", "ro,noload", rootStart, rootSize)
	want := comparable(fixture.Manifest(t, kernel))
	if len(want) < 5000 || want["etc/hostname"].UID != 3000000000 || want["root/second-name"].Nlink != 2 {
		t.Fatalf("the fixture is not a distribution: %d objects, %+v", len(want), want["etc/hostname"])
	}
	a := startAgent(t, "--disk", "b-raw/rootdisk="+disk, "--disk", "b-qcow2/rootdisk="+qcow+",format=qcow2", "--vm", "debian",
		"--timestamp", "b-raw=2026-04-12T22:00:00Z")

	t.Run("inspect", func(t *testing.T) { checkInspect(t, disk, qcow, want) })
	for _, b := range []string{"b-raw", "b-qcow2"} {
		t.Run("fuse "+b, func(t *testing.T) {
			got := comparable(fixture.Manifest(t, filepath.Join(a.Mount, "backups", b, "rootdisk")))
			for _, d := range fsystest.Diff(want, got) {
				t.Error(d)
			}
		})
	}
	t.Run("disk", func(t *testing.T) {
		for _, b := range []string{"b-raw", "b-qcow2"} {
			raw := filepath.Join(a.Mount, "disks", b, "rootdisk.raw")
			fixture.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", raw, disk) // fails on a difference
		}
		if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", "raw", filepath.Join(a.Mount, "disks/b-raw/rootdisk.raw"), a.other(t)).CombinedOutput(); err == nil {
			t.Errorf("qemu-img compare finds no difference to another image: %s", out)
		}
	})
	t.Run("restores link", func(t *testing.T) {
		got, err := os.ReadFile(filepath.Join(a.Mount, "restores/2026-04-12/b-raw/debian/rootdisk/etc/os-release"))
		if err != nil || !strings.Contains(string(got), "ID=debian") {
			t.Errorf("os-release by /restores: %q, %v", got, err)
		}
	})
	t.Run("sftp", func(t *testing.T) {
		dir := t.TempDir()
		batch := filepath.Join(dir, "batch")
		if err := os.WriteFile(batch, []byte("get -pr /backups/b-qcow2/rootdisk/etc "+dir+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		fixture.Run(t, "sftp", append(a.sshArgs(), "-b", batch, a.target())...)
		checkSubtree(t, filepath.Join(dir, "etc"), "etc", want)
	})
	t.Run("sshfs", func(t *testing.T) {
		dir := t.TempDir()
		port := a.sshArgs()
		fixture.Run(t, "sshfs", append(port, "-o", "ro", a.target()+":/backups/b-raw/rootdisk", dir)...)
		defer fixture.Run(t, "fusermount3", "-u", dir)
		checkSubtree(t, filepath.Join(dir, "usr/bin"), "usr/bin", want)
	})
	t.Run("https", func(t *testing.T) {
		// etc/os-release is a link to usr/lib/os-release: the server follows it.
		for p, same := range map[string]string{"etc/os-release": "usr/lib/os-release", "usr/bin/bash": "usr/bin/bash", "etc/hostname": "etc/hostname"} {
			out := filepath.Join(t.TempDir(), "out")
			fixture.Run(t, "curl", "-sSf", "--cacert", a.HTTPS.CAFile, "-u", a.HTTPS.User+":"+a.Password(t), "-o", out,
				a.HTTPS.URL+"/files/backups/b-qcow2/rootdisk/"+p)
			if got := fixture.Sum(t, out); got != want[same].SHA256 {
				t.Errorf("%s by HTTPS has sum %s, want %s", p, got, want[same].SHA256)
			}
		}
	})
	t.Run("metrics", func(t *testing.T) {
		out := fixture.Run(t, "curl", "-sSf", "--cacert", a.HTTPS.CAFile, "-u", a.HTTPS.User+":"+a.Password(t), a.HTTPS.URL+"/metrics")
		for _, series := range []string{`vmfr_read_bytes_total{frontend="fuse"}`, `vmfr_operations_total{frontend="sftp",operation="read"}`,
			`vmfr_metadata_cache_lookups_total{result="hit"}`, `vmfr_cache_hits_total{backup="b-qcow2",cache="clusters",disk="rootdisk"}`,
			"vmfr_disk_open_seconds_bucket", `vmfr_errors_total{kind="corrupt"} 0`, "process_resident_memory_bytes", "go_goroutines"} {
			if !strings.Contains(out, series) {
				t.Errorf("/metrics has no %s", series)
			}
		}
	})
}

// checkSubtree compares the regular files below dir with the manifest's below prefix, by
// content, size and mode, and that none is missing.
func checkSubtree(t *testing.T, dir, prefix string, want fsystest.Manifest) {
	t.Helper()
	n := 0
	for p, e := range want {
		rel, ok := strings.CutPrefix(p, prefix+"/")
		if !ok || e.Mode&fsys.ModeFmt != fsys.ModeRegular {
			continue
		}
		n++
		st, err := os.Lstat(filepath.Join(dir, rel))
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if st.Size() != e.Size || uint32(st.Mode().Perm()) != e.Mode&0o777 || fixture.Sum(t, filepath.Join(dir, rel)) != e.SHA256 {
			t.Errorf("%s: size %d mode %o, want %d %o, or the content differs", p, st.Size(), st.Mode().Perm(), e.Size, e.Mode)
		}
	}
	if n < 50 {
		t.Errorf("only %d files below %s were compared", n, prefix)
	}
}

// checkInspect: the report names what the tools made, and --walk gives the same sum for the raw
// image and for its compressed conversion.
func checkInspect(t *testing.T, disk, qcow string, want fsystest.Manifest) {
	var backups []struct {
		Disks []struct {
			Format, State  string
			VirtualSize    int64
			PartitionTable struct{ Scheme string }
			Volumes        []struct {
				Name, Label, Content string
				FileSystem           *struct{ Type, Label, Journal, Engine string }
			}
		}
	}
	out := inspect(t, "--json", "--disk", "b/rootdisk="+qcow+",format=qcow2")
	if err := json.Unmarshal([]byte(out), &backups); err != nil {
		t.Fatalf("inspect --json: %v\n%s", err, out)
	}
	d := backups[0].Disks[0]
	if d.Format != "qcow2" || d.VirtualSize != diskSize || d.PartitionTable.Scheme != "gpt" || len(d.Volumes) != 3 {
		t.Fatalf("inspect: %+v", d)
	}
	if v := d.Volumes[1]; v.Name != "p2" || v.Label != "root" || v.FileSystem == nil || v.FileSystem.Type != "ext4" || v.FileSystem.Label != "cloudimg-rootfs" {
		t.Errorf("inspect: volume 2 is %+v", v)
	}
	if d.Volumes[0].Content != "vfat" || d.Volumes[2].Content != "swap" {
		t.Errorf("inspect: volumes 1 and 3 hold %q and %q", d.Volumes[0].Content, d.Volumes[2].Content)
	}
	if d.State != "readable" {
		t.Errorf("inspect: state %q", d.State)
	}
	raw := walkSum(t, disk)
	if got := walkSum(t, qcow+",format=qcow2"); got != raw {
		t.Errorf("inspect --walk: %q for qcow2, %q for raw", got, raw)
	}
}
