package ntfs

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
)

// A reparse point ([MS-FSCC] 2.1.2): tag (4), length of the data (2), reserved (2), data. Tags
// that are not Microsoft's (highest bit clear) have a GUID before the data.
const (
	reparseHeader = 8
	maxReparse    = 16 << 10
)

const (
	tagMountPoint = 0xA0000003
	tagSymlink    = 0xA000000C
	tagLxSymlink  = 0xA000001D
	tagAFUnix     = 0x80000023
	tagLxFIFO     = 0x80000024
	tagLxChar     = 0x80000025
	tagLxBlock    = 0x80000026
	tagWOF        = 0x80000017
	tagDedup      = 0x80000013
	tagCloud      = 0x9000001A // 0x9000x01A: sixteen of them
	tagCloudMask  = 0xFFFF0FFF
)

// reparseModes are the tags that are shown as what they stand for.
var reparseModes = map[uint32]uint32{
	tagMountPoint: fsys.ModeSymlink,
	tagSymlink:    fsys.ModeSymlink,
	tagLxSymlink:  fsys.ModeSymlink,
	tagAFUnix:     fsys.ModeSocket,
	tagLxFIFO:     fsys.ModeFIFO,
	tagLxChar:     fsys.ModeChar,
	tagLxBlock:    fsys.ModeBlock,
}

// reparseNames names what a person may meet.
var reparseNames = map[uint32]string{
	tagWOF:     "compressed by Windows itself (WOF, CompactOS); read it in Windows, or restore it from the installation media",
	tagDedup:   "deduplicated (Windows Server Data Deduplication); read it in the guest",
	0x80000007: "a link of the Single Instance Store; read it in the guest",
	0x80000021: "a OneDrive placeholder whose content is in the cloud",
	0x80000015: "a OneDrive placeholder whose content is in the cloud",
	0x8000001B: "an app's execution alias, which has no content",
	0x80000018: "a link into a Windows container's layer",
	0x90001018: "a link into a Windows container's layer",
	0x9000001C: "a placeholder of a projected file system, whose content is with its provider",
	0xC0000004: "moved to other storage (HSM)",
	0x80000006: "moved to other storage (HSM)",
	0x80000014: "a special file of the NFS server",
}

// refuse returns why a regular file cannot be read, nil where it can: its reparse point says that
// its content is elsewhere.
func (n *object) refuse(k kind, data *attr) error {
	if k.reparse == nil {
		return nil
	}
	if len(k.reparse) < reparseHeader {
		return fsys.Corrupt("ntfs", "reparse point", fsys.Ino(n.rec.num), -1, "it has %d bytes", len(k.reparse))
	}
	tag := binary.LittleEndian.Uint32(k.reparse)
	what, ok := reparseNames[tag]
	if tag&tagCloudMask == tagCloud {
		// A file that is kept on the device as well has all of its content here.
		const absent = flagOffline | flagRecallOpen | flagRecallAccess
		if k.std.flags&absent == 0 && data != nil && data.flags&attrSparse == 0 {
			return nil
		}
		what, ok = "a cloud file (OneDrive) whose content is not on this disk; fetch it from the cloud", true
	}
	if !ok {
		what = "of a kind that only the program which made it can read"
	}
	return fmt.Errorf("ntfs: %w: inode %d is %s (reparse tag %#08x)", fsys.ErrUnsupported, n.rec.num, what, tag)
}
