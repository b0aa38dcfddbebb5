package ntfs

import (
	"encoding/binary"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Interix, and ntfs-3g, keep special files in files with the system attribute: "IntxLNK" 1 and
// the target in UTF-16, "IntxCHR" or "IntxBLK" 0 and the device's numbers (8 bytes each). An
// empty one is a FIFO, one of a single byte a socket, unless they are hidden, too.
const (
	interixLink  = "IntxLNK\x01"
	interixChar  = "IntxCHR\x00"
	interixBlock = "IntxBLK\x00"
	interixMagic = 8
	maxInterix   = interixMagic + 2*4096
	flagHidden   = 0x2
)

// interix tells what a system file stands for, with its content.
func (n *object) interix(std standard) (uint32, []byte, error) {
	a, err := n.find(typeData, nil)
	if err != nil || a == nil || a.flags&attrEncrypted != 0 || a.size > maxInterix {
		return fsys.ModeRegular, nil, err
	}
	if a.size <= 1 {
		switch {
		case std.flags&flagHidden != 0:
			return fsys.ModeRegular, nil, nil
		case a.size == 0:
			return fsys.ModeFIFO, nil, nil
		}
		return fsys.ModeSocket, nil, nil
	}
	if a.size < interixMagic {
		return fsys.ModeRegular, nil, nil
	}
	r, err := n.open(a)
	if err != nil {
		return 0, nil, err
	}
	b := make([]byte, r.Size())
	if err := extent.ReadAllAt(r, b[:interixMagic], 0); err != nil {
		return 0, nil, err
	}
	var mode uint32
	switch string(b[:interixMagic]) {
	case interixLink:
		mode = fsys.ModeSymlink
	case interixChar, interixBlock:
		if len(b) != interixMagic+16 {
			return fsys.ModeRegular, nil, nil
		}
		if mode = fsys.ModeChar; string(b[:interixMagic]) == interixBlock {
			mode = fsys.ModeBlock
		}
	default:
		return fsys.ModeRegular, nil, nil
	}
	return mode, b, extent.ReadAllAt(r, b, 0)
}

// device returns the numbers of a device node, of Interix or of WSL.
func (n *object) device(k kind) (major, minor uint32, err error) {
	le := binary.LittleEndian
	if k.content != nil {
		return uint32(le.Uint64(k.content[interixMagic:])), uint32(le.Uint64(k.content[interixMagic+8:])), nil
	}
	ea, err := n.value(typeEA, maxEA)
	if err != nil {
		return 0, 0, err
	}
	if v := eaValue(ea, "$LXDEV"); len(v) >= 8 {
		return le.Uint32(v), le.Uint32(v[4:]), nil
	}
	return 0, 0, nil
}

// maxEA bounds extended attributes in the sense of OS/2, as the format does.
const maxEA = 64 << 10

// eaValue finds one of them ([MS-FSCC] 2.4.15): offset of the next (4), flags (1), length of the
// name (1) and of the value (2), name, NUL, value. nil where there is none.
func eaValue(b []byte, name string) []byte {
	le := binary.LittleEndian
	for len(b) >= 8 {
		next, k, v := le.Uint32(b), int(b[5]), int(le.Uint16(b[6:]))
		if 8+k+1+v > len(b) {
			return nil
		}
		if strings.EqualFold(string(b[8:8+k]), name) {
			return b[8+k+1 : 8+k+1+v]
		}
		if next < 8 || uint64(next) > uint64(len(b)) {
			return nil
		}
		b = b[next:]
	}
	return nil
}
