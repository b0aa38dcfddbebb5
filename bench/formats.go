package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// ntfsFiles is the number of small files in the NTFS image: a Windows system has more than a
// server's data disk.
const ntfsFiles = 50_000

// formatShare is the part of the large file that these images have: guestmount reads all of it
// three times in each of them.
const formatShare = 4

// formats measures the other file systems and a striped logical volume, all with the large
// file and the small ones.
func formats(c config, _ images, r *report) error {
	fs, err := makeFormats(c)
	if err != nil {
		return err
	}
	if err := sequentialOf(c, fs, r); err != nil {
		return err
	}
	return smallOf(c, fs, r)
}

// maker makes one image from the files in src.
type maker struct {
	format
	files int
	make  func(c config, f format, src string, sizeMiB int) error
}

func makeFormats(c config) ([]format, error) {
	at := func(name string) string { return filepath.Join(c.work, name) }
	fileMiB := c.fileMiB / formatShare
	all := []maker{
		{format{name: "xfs", path: at("xfs.raw"), kind: "raw", peers: []mounter{kernel, guest}}, c.files, makeXFS},
		{format{name: "ntfs", path: at("ntfs.raw"), kind: "raw", peers: []mounter{ntfs3g, guest}}, ntfsFiles, makeNTFS},
		{format{name: "fat32", path: at("fat.raw"), kind: "raw", peers: []mounter{guest}}, c.files, makeFAT},
		{format{name: "LVM, 2 stripes", path: at("pv0.raw"), more: []string{at("pv1.raw")}, kind: "raw",
			device: "/dev/vg/data", root: "d0", peers: []mounter{guest}}, c.files, makeLVM},
	}
	var out []format
	for _, m := range all {
		out = append(out, m.format)
		stamp := at(fmt.Sprintf("made-%s-%d-%d", filepath.Base(m.path), fileMiB, m.files))
		if _, err := os.Stat(stamp); err == nil {
			continue
		}
		src := at("src")
		if err := os.RemoveAll(src); err != nil {
			return nil, err
		}
		if err := fill(src, fileMiB, m.files); err != nil {
			return nil, err
		}
		if err := m.make(c, m.format, src, fileMiB+m.files*8/1024+256); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		if err := os.RemoveAll(src); err != nil {
			return nil, err
		}
		if err := os.WriteFile(stamp, nil, 0o644); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sparse makes an empty file of that many MiB.
func sparse(path string, mib int) error {
	_ = os.Remove(path)
	return sh("truncate", "-s", strconv.Itoa(mib)+"M", path)
}

// copyInto mounts path by command and copies the files into it.
func copyInto(c config, path, src string, mount ...string) error {
	dir, err := os.MkdirTemp(c.work, "fill")
	if err != nil {
		return err
	}
	if err := sh(mount[0], append(mount[1:], path, dir)...); err != nil {
		return err
	}
	cp := sh("cp", "-a", src+"/.", dir)
	if err := sh("umount", dir); err != nil {
		return err
	}
	if cp != nil {
		return cp
	}
	return os.Remove(dir)
}

func makeXFS(c config, f format, src string, mib int) error {
	if err := sparse(f.path, mib); err != nil {
		return err
	}
	if err := sh("mkfs.xfs", "-q", "-f", f.path); err != nil {
		return err
	}
	return copyInto(c, f.path, src, "mount", "-o", "loop")
}

func makeNTFS(c config, f format, src string, mib int) error {
	if err := sparse(f.path, mib); err != nil {
		return err
	}
	if err := sh("mkntfs", "-q", "-Q", "-F", f.path); err != nil {
		return err
	}
	return copyInto(c, f.path, src, "ntfs-3g")
}

func makeFAT(_ config, f format, src string, mib int) error {
	if err := sparse(f.path, mib); err != nil {
		return err
	}
	if err := sh("mkfs.vfat", "-F", "32", f.path); err != nil {
		return err
	}
	return sh("mcopy", "-s", "-i", f.path, filepath.Join(src, bigName), filepath.Join(src, "small"), "::/")
}

// The layout that lvcreate makes of two empty physical volumes: both stripes begin at the
// first extent, which lies at the data alignment.
const (
	pvStart    = 1 << 20
	stripeSize = 64 << 10
	pvExtent   = 4 // MiB
)

// makeLVM makes a logical volume of two stripes. The machine may have no device mapper, so the
// file system is made in a file and its stripes are written to where the volume has them.
func makeLVM(c config, f format, src string, mib int) error {
	mib = (mib + 2*pvExtent - 1) / (2 * pvExtent) * (2 * pvExtent)
	flat := filepath.Join(c.work, "flat.raw")
	_ = os.Remove(flat)
	defer func() { _ = os.Remove(flat) }()
	if err := sh("mke2fs", "-q", "-F", "-t", "ext4", "-d", src, flat, strconv.Itoa(mib)+"M"); err != nil {
		return err
	}
	if err := striped(f.disks(), mib); err != nil {
		return err
	}
	in, err := os.Open(flat)
	if err != nil {
		return err
	}
	defer in.Close()
	var pvs [2]*os.File
	for i, path := range f.disks() {
		if pvs[i], err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return err
		}
		defer pvs[i].Close()
	}
	buf := make([]byte, stripeSize)
	for n := int64(0); n < int64(mib)<<20/stripeSize; n++ {
		if _, err := io.ReadFull(in, buf); err != nil {
			return err
		}
		if _, err := pvs[n%2].WriteAt(buf, pvStart+n/2*stripeSize); err != nil {
			return err
		}
	}
	return nil
}

// striped makes the group vg with the volume data over two disks, without device mapper.
func striped(disks []string, mib int) error {
	var loops []string
	defer func() {
		for _, l := range loops {
			_ = sh("losetup", "-d", l)
		}
	}()
	for _, path := range disks {
		if err := sparse(path, mib/2+2*pvExtent); err != nil {
			return err
		}
		out, err := output("losetup", "-f", "--show", path)
		if err != nil {
			return err
		}
		loops = append(loops, out)
	}
	conf := fmt.Sprintf(`devices{filter=["a|^%s$|","a|^%s$|","r|.*|"] use_devicesfile=0} activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}`, loops[0], loops[1])
	for _, args := range [][]string{
		{"pvcreate", "-q", "--dataalignment", "1m", loops[0], loops[1]},
		{"vgcreate", "-q", "-s", strconv.Itoa(pvExtent) + "m", "vg", loops[0], loops[1]},
		{"lvcreate", "-q", "-an", "-Zn", "-Wn", "-i", "2", "-I", strconv.Itoa(stripeSize >> 10), "-L", strconv.Itoa(mib) + "m", "-n", "data", "vg"},
	} {
		if err := sh(args[0], append([]string{"--driverloaded", "n", "--config", conf}, args[1:]...)...); err != nil {
			return err
		}
	}
	return nil
}
