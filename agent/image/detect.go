package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"vmfr/agent/latency"
)

const qcow2Magic = "QFI\xfb"

// foreign are the signatures of image formats that are not read here. Showing such a file as
// a raw disk would only say that it has no partition table.
var foreign = []struct {
	name, magic string
	off         int
}{
	{"VMDK", "KDMV", 0},
	{"VMDK", "COWD", 0},
	{"VMDK descriptor", "# Disk DescriptorFile", 0},
	{"VHDX", "vhdxfile", 0},
	{"VHD", "conectix", 0},
	{"VDI", "\x7f\x10\xda\xbe", 64},
	{"QED", "QED\x00", 0},
	{"parallels", "WithoutFreeSpace", 0},
	{"parallels", "WithouFreSpacExt", 0},
	{"gzip", "\x1f\x8b\x08", 0},
	{"xz", "\xfd7zXZ\x00", 0},
	{"zstd", "\x28\xb5\x2f\xfd", 0},
}

// Detect tells the format of f by its content; what has no known signature is raw. A guest
// can write any signature onto its own raw disk, so an explicit format is always better, and
// an image that Open detected as qcow2 gets no backing file. A format that is known but not
// read here is ErrUnsupported.
func Detect(f *os.File) (Format, error) { return detect(f, nil) }

func detect(f *os.File, reads *latency.Pending) (Format, error) {
	h, err := openHost(f, reads)
	if err != nil {
		return "", err
	}
	head := make([]byte, 512)
	n, err := h.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("image: %w", err)
	}
	head = head[:n]
	// Version 1 is another format, QCOW, with the same signature.
	if bytes.HasPrefix(head, []byte(qcow2Magic)) && len(head) >= 8 {
		if v := binary.BigEndian.Uint32(head[4:]); v == 1 {
			return "", fmt.Errorf("%w: %s looks like a qcow version 1 image; convert it with qemu-img convert -O qcow2, or pass format=raw if it is a raw disk",
				ErrUnsupported, f.Name())
		}
		return FormatQCOW2, nil
	}
	for _, s := range foreign {
		if len(head) >= s.off && bytes.HasPrefix(head[s.off:], []byte(s.magic)) {
			return "", fmt.Errorf("%w: %s looks like %s; convert or unpack it to raw or qcow2 first, or pass format=raw if it is a raw disk",
				ErrUnsupported, f.Name(), s.name)
		}
	}
	return FormatRaw, nil
}
