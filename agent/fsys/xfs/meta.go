package xfs

import "fmt"

// blocks returns count blocks of metadata from linear block b on, which the caller has checked.
// what and ino name the object in the error.
func (f *FS) blocks(what string, ino, b, count uint64) ([]byte, error) {
	p, err := f.meta.Bytes(int64(b*f.sb.blockSize), int(count*f.sb.blockSize))
	if err != nil {
		return nil, fmt.Errorf("xfs: %s of inode %d in block %d: %w", what, ino, b, err)
	}
	return p, nil
}
