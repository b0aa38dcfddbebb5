package ext4

import (
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Inline data lies in i_block and goes on in the value of the attribute system.data. In a
// directory the first 4 bytes are the parent's inode, and both parts hold whole records.
const inlineParent = 4

// inlineRest is the second part, which the inode's own attributes hold; empty where there is none.
func (f *FS) inlineRest(n *inode) ([]byte, error) {
	if !f.sb.hasIncompat(incompatInlineData) {
		return nil, fsys.Corrupt("ext4", "inode", fsys.Ino(n.num), -1, "inline data in a file system without that feature")
	}
	area, err := parseBodyXattrs(n)
	if err != nil || area == nil {
		return nil, err
	}
	for _, e := range area.entries {
		if e.index != xattrSystem || string(e.name) != "data" {
			continue
		}
		if e.valueIno != 0 {
			return nil, fsys.Corrupt("ext4", "inline data", fsys.Ino(n.num), -1, "it is in inode %d", e.valueIno)
		}
		return area.value(e)
	}
	return nil, nil
}

// inlineBytes is all inline data that the inode has, padded with zeros or cut to n.size where
// that fits in an inode.
func (f *FS) inlineBytes(n *inode) ([]byte, error) {
	rest, err := f.inlineRest(n)
	if err != nil {
		return nil, err
	}
	b := append(append(make([]byte, 0, blockMapSize+len(rest)), n.block[:]...), rest...)
	return b[:min(uint64(len(b)), n.size)], nil
}

func (f *FS) inlineFile(n *inode) (extent.Reader, error) {
	b, err := f.inlineBytes(n)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n.num, err)
	}
	if uint64(len(b)) == n.size {
		return extent.Bytes(b), nil
	}
	// A file that was made longer by truncate(2) only.
	return extent.Concat(extent.Bytes(b), extent.Zeros(int64(n.size)-int64(len(b))))
}

// walkInline is dirScan.walk for a directory that lies in its inode.
func (sc *dirScan) walkInline(from uint64, visit func(*dirent) bool) error {
	rest, err := sc.f.inlineRest(sc.n)
	if err != nil {
		return err
	}
	const split = blockMapSize
	parts := [2]area{
		{sc.n.block[inlineParent:], inlineParent, split, -1},
		{rest, split, split + uint64(len(rest)), -1},
	}
	for _, a := range parts {
		if from < a.end || a.end == a.base {
			if sc.records(a, int(max(from, a.base)-a.base), visit) {
				return nil
			}
		}
	}
	return nil
}
