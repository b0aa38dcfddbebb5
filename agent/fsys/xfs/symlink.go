package xfs

import (
	"vmfr/agent/fsys"
)

// maxSymlink is the longest target in bytes (XFS_SYMLINK_MAXLEN).
const maxSymlink = 1024

// Readlink returns a symbolic link's target, or fsys.ErrNotLink.
func (f *FS) Readlink(ino fsys.Ino) (string, error) {
	n, err := f.inode(ino)
	switch {
	case err != nil:
		return "", err
	case n.kind() != fsys.ModeSymlink:
		return "", fsys.ErrNotLink
	case n.size == 0 || n.size > maxSymlink:
		return "", n.bad("symbolic link", "a target of %d bytes", n.size)
	}
	var b []byte
	if n.data.format == formatLocal {
		b = n.data.raw[:n.size] // parseInode checked that it is there
	} else if b, err = f.remoteTarget(n); err != nil {
		return "", err
	}
	target := cstring(b) // the kernel too ends it at the first NUL
	if target == "" {
		return "", n.bad("symbolic link", "the target is empty")
	}
	return target, nil
}

// remoteTarget reads a target that has blocks of its own.
func (f *FS) remoteTarget(n *inode) ([]byte, error) {
	s := f.sb
	m, err := f.mapping(n, &n.data, "symbolic link")
	if err != nil {
		return nil, err
	}
	// In version 5 the headers may take one block more than the bare bytes.
	blocks := (maxSymlink + s.blockSize - 1) / s.blockSize
	if s.v5 {
		blocks = (maxSymlink + s.blockSize - remoteHeaderSize - 1) / (s.blockSize - remoteHeaderSize)
	}
	out := make([]byte, 0, n.size)
	for lblk := uint64(0); len(out) < int(n.size); {
		r, err := m.at(lblk)
		if err != nil {
			return nil, err
		}
		if r.Phys == 0 || lblk >= blocks {
			return nil, n.bad("symbolic link", "%d of %d bytes have a block", len(out), n.size)
		}
		count := min(r.Count, blocks-lblk)
		b, err := f.blocks("symbolic link", n.num, r.Phys, count)
		if err != nil {
			return nil, err
		}
		want := int(n.size) - len(out)
		if s.v5 {
			if b, err = s.piece(b, symlinkMagic, "symbolic link", n.num, int64(r.Phys*s.blockSize), len(out), want); err != nil {
				return nil, err
			}
		}
		out = append(out, b[:min(want, len(b))]...)
		lblk += count
	}
	return out, nil
}
