package ext4

import (
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// maxSymlink is the longest target in bytes that Linux takes (PATH_MAX less the final NUL).
const maxSymlink = 4095

// Readlink returns a symbolic link's target. fsys.ErrNotLink; fsys.ErrNoKey where the guest
// encrypted it.
func (f *FS) Readlink(ino fsys.Ino) (string, error) {
	n, err := f.inode(ino)
	switch {
	case err != nil:
		return "", err
	case n.mode&fsys.ModeFmt != fsys.ModeSymlink:
		return "", fsys.ErrNotLink
	case n.has(flagEncrypt):
		return "", fmt.Errorf("ext4: inode %d: %w (fscrypt)", ino, fsys.ErrNoKey)
	case n.size == 0 || n.size > maxSymlink:
		return "", fsys.Corrupt("ext4", "symbolic link", ino, -1, "a target of %d bytes", n.size)
	}
	var b []byte
	switch {
	case n.has(flagInline):
		b, err = f.inlineBytes(n)
	case f.isFastSymlink(n):
		if n.size >= blockMapSize {
			return "", fsys.Corrupt("ext4", "symbolic link", ino, -1, "a target of %d bytes in the inode", n.size)
		}
		b = n.block[:n.size]
	default:
		b = make([]byte, n.size)
		if err = extent.ReadAllAt(f.content(n), b, 0); err != nil {
			err = fmt.Errorf("symbolic link %d: %w", ino, err)
		}
	}
	if err != nil {
		return "", err
	}
	target := cstring(b) // the kernel too ends it at the first NUL
	if target == "" {
		return "", fsys.Corrupt("ext4", "symbolic link", ino, -1, "the target is empty")
	}
	return target, nil
}

// isFastSymlink tells whether the target lies in the inode itself: it has no blocks other than
// that of its attributes.
func (f *FS) isFastSymlink(n *inode) bool {
	if n.has(flagEAInode) {
		return n.size < blockMapSize
	}
	own := n.blocks
	if attrs := f.sb.clusterSize / 512; n.fileACL != 0 && own >= attrs {
		own -= attrs
	}
	return own == 0
}
