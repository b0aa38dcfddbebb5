package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// images are the same ext4 file system in every format. It holds big (one large file) and
// small/ (many small files in folders of 100).
type images struct {
	raw     string
	formats []format
}

// format is one image, or several disks, with the same files.
type format struct {
	name   string // "raw", "qcow2", "qcow2 zlib", "qcow2 zstd", "xfs", ...
	path   string
	kind   string   // of the image file, for guestmount and vmfr-agent
	more   []string // further disks, for a volume that spans several
	device string   // what guestmount mounts; empty: /dev/sda
	root   string   // where vmfr shows it below the backup; empty: the first disk's folder
	peers  []mounter
}

func (f format) disks() []string { return append([]string{f.path}, f.more...) }

const bigName = "big"

func makeImages(c config) (images, error) {
	im := images{raw: filepath.Join(c.work, "disk.raw")}
	im.formats = []format{
		{name: "raw", path: im.raw, kind: "raw", peers: []mounter{kernel, guest}},
		{name: "qcow2", path: filepath.Join(c.work, "plain.qcow2"), kind: "qcow2", peers: []mounter{guest}},
		{name: "qcow2 zlib", path: filepath.Join(c.work, "zlib.qcow2"), kind: "qcow2", peers: []mounter{guest}},
		{name: "qcow2 zstd", path: filepath.Join(c.work, "zstd.qcow2"), kind: "qcow2", peers: []mounter{guest}},
	}
	stamp := filepath.Join(c.work, fmt.Sprintf("made-%d-%d", c.fileMiB, c.files))
	if _, err := os.Stat(stamp); err == nil {
		return im, nil
	}
	log.Printf("making images in %s", c.work)
	src := filepath.Join(c.work, "src")
	if err := os.RemoveAll(src); err != nil {
		return im, err
	}
	if err := fill(src, c.fileMiB, c.files); err != nil {
		return im, err
	}
	size := strconv.Itoa(c.fileMiB+c.files*8/1024+256) + "M"
	_ = os.Remove(im.raw)
	if err := sh("mke2fs", "-q", "-F", "-t", "ext4", "-d", src, im.raw, size); err != nil {
		return im, err
	}
	for _, f := range im.formats[1:] {
		args := []string{"convert", "-O", "qcow2"}
		if _, how, ok := strings.Cut(f.name, " "); ok {
			args = append(args, "-c", "-o", "compression_type="+how)
		}
		if err := sh("qemu-img", append(args, im.raw, f.path)...); err != nil {
			return im, err
		}
	}
	if err := os.RemoveAll(src); err != nil {
		return im, err
	}
	return im, os.WriteFile(stamp, nil, 0o644)
}

// fill writes the source tree. The large file compresses to about half, like a database or a
// log; content that does not compress, or all zeros, would flatter one side.
func fill(dir string, fileMiB, files int) error {
	if err := os.MkdirAll(filepath.Join(dir, "small"), 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, bigName))
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	words := make([]byte, 1<<20)
	for range fileMiB {
		for i := 0; i < len(words); i += 16 {
			binary.LittleEndian.PutUint64(words[i:], rng.Uint64())
			copy(words[i+8:], "journal ")
		}
		if _, err := f.Write(words); err != nil {
			return err
		}
	}
	for i := range files {
		d := filepath.Join(dir, "small", fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		h := sha256.Sum256([]byte(strconv.Itoa(i)))
		body := make([]byte, 200+int(h[0])*24) // 200 to 6,320 bytes
		for j := range body {
			body[j] = h[j%len(h)]
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file-%05d.txt", i)), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sh runs a program; its output is part of the error.
func sh(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// output runs a program and returns what it prints, without the newline.
func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
