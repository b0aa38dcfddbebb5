// Package sample is the embedded sample of vmfr-agent serve --sample: the disk of a small
// invented web shop's VM in two backups, before and after an incident that deleted a document
// and changed a configuration file. make.sh makes it with the standard tools.
//
// Invariant: an opened image has no name on this machine, so nothing is left behind however
// the process ends.
package sample

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

//go:generate ./make.sh

//go:embed manifest.json before.raw.zst after.qcow2.zst
var files embed.FS

// Manifest tells what the sample is; make.sh writes it, with checksums by sha256sum.
type Manifest struct {
	VM      string  `json:"vm"`
	Deleted string  `json:"deleted"` // a file in the first backup that the second lacks
	Changed string  `json:"changed"` // a file that differs between the two
	Images  []Image `json:"images"`  // oldest first
}

// Image is one disk of one backup.
type Image struct {
	Backup    string            `json:"backup"`
	Disk      string            `json:"disk"`
	Format    string            `json:"format"` // "raw" or "qcow2"
	Timestamp time.Time         `json:"timestamp"`
	File      string            `json:"file"`
	Size      int64             `json:"size"`   // bytes of the image file
	SHA256    map[string]string `json:"sha256"` // path in the guest -> sha256 of its content
}

// Load reads the manifest.
func Load() (Manifest, error) {
	var m Manifest
	b, err := files.ReadFile("manifest.json")
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("embedded sample: %w", err)
	}
	return m, nil
}

// Open unpacks the image into anonymous memory, sparse as it was, and returns it open for
// reading. The caller closes it, which frees the memory.
func (i Image) Open() (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("embedded sample %s: %w", i.File, err)
		}
	}()
	packed, err := files.ReadFile(i.File)
	if err != nil {
		return nil, err
	}
	// One window and no goroutines: unpacking must not leave a mark on the process's memory.
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := anonymous("vmfr-sample-" + i.File)
	if err != nil {
		return nil, err
	}
	if err := unpack(f, z, i.Size); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// anonymous returns a file without a name: memory, or an unlinked file where there is no memfd.
func anonymous(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err == nil {
		return os.NewFile(uintptr(fd), name), nil
	}
	f, err := os.CreateTemp("", name)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// unpack copies exactly size bytes to f, leaving holes where a block is all zeros.
func unpack(f *os.File, r io.Reader, size int64) error {
	const block = 4096
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf, zeros := make([]byte, block), make([]byte, block)
	for off := int64(0); off < size; off += block {
		b := buf[:min(block, size-off)]
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if bytes.Equal(b, zeros[:len(b)]) {
			continue
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	if n, err := r.Read(buf[:1]); n != 0 || err != io.EOF {
		return errors.New("longer than its manifest says")
	}
	return nil
}
