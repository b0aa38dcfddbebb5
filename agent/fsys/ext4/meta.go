package ext4

import (
	"fmt"

	"vmfr/agent/fsys"
)

// block returns metadata block b of an object. what and ino name the object in the error.
func (f *FS) block(what string, ino uint32, b uint64) ([]byte, error) {
	if !f.sb.validBlocks(b, 1) {
		return nil, fsys.Corrupt("ext4", what, fsys.Ino(ino), -1, "block %d is outside the file system", b)
	}
	p, err := f.meta.Bytes(int64(b*f.sb.blockSize), int(f.sb.blockSize))
	if err != nil {
		return nil, fmt.Errorf("ext4: %s of inode %d in block %d: %w", what, ino, b, err)
	}
	return p, nil
}
