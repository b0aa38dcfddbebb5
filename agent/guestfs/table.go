package guestfs

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"vmfr/agent/fsys"
)

const (
	// MaxNodes bounds the objects that the file systems of one backup may have made known. An
	// object is found again by its name only, so none can be forgotten: about 100 bytes each.
	MaxNodes = 2_000_000
	// MaxDepth bounds a path's directories: the appliance takes 4,096 bytes.
	maxDepth = 2048
	// firstOwn is where numbers that are given here begin: above those of any disk that an
	// appliance can have (ext4: 2^32, xfs and btrfs: in practice far below 2^47).
	firstOwn fsys.Ino = 1 << 47
)

// table knows where each number is: libguestfs finds objects by path only. A hard link is
// known by the first of its names.
//
// Numbers are the guest's where these are on the disk. Below the root of a btrfs subvolume
// inside the mounted tree they would repeat, so there, and in formats without numbers, they are
// given out here, for the session.
type table struct {
	mu     sync.RWMutex
	total  *atomic.Int64 // of all tables of the backup
	byPath bool          // no numbers on the disk
	nodes  map[fsys.Ino]node
	own    map[ownKey]fsys.Ino
	vols   uint32
	next   fsys.Ino
}

// node is where an object is. vol tells the subvolumes inside the mounted tree apart: 0 for the
// tree's own, and a number for each directory that is the root of another.
type node struct {
	parent fsys.Ino
	name   string
	vol    uint32
}

// ownKey is what a number was given to: a name in a directory, or an inode of a subvolume.
type ownKey struct {
	dir  fsys.Ino // of a name; 0: an inode
	name string
	vol  uint32
	ino  int64
}

func (t *table) init(total *atomic.Int64, root fsys.Ino, byPath bool) {
	t.total, t.byPath, t.next = total, byPath, firstOwn
	if byPath {
		t.next = root + 1
	}
	t.nodes = map[fsys.Ino]node{root: {parent: root}}
	t.own = map[ownKey]fsys.Ino{}
}

// foreign as a vol says that an entry is the root of another subvolume than its directory's.
const foreign = ^uint32(0)

// number returns the number of an entry and remembers its place. vol is the subvolume that it
// is in, or foreign; ino is the appliance's number.
func (t *table) number(dir fsys.Ino, name string, vol uint32, ino int64, isDir bool) (fsys.Ino, error) {
	if !validName(name) {
		return 0, corrupt("directory", dir, "a name of %d bytes that no file system has: %.80q", len(name), name)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := fsys.Ino(ino)
	key := ownKey{vol: vol, ino: ino}
	if t.byPath || vol == foreign {
		key = ownKey{dir: dir, name: name}
	}
	given := t.byPath || vol != 0 || n >= firstOwn
	if given {
		if have, ok := t.own[key]; ok {
			return have, nil
		}
		n = t.next
	}
	if have, ok := t.nodes[n]; ok {
		if isDir && (have.parent != dir || have.name != name) {
			return 0, corrupt("directory", dir, "%.80q is a directory that is somewhere else, too", name)
		}
		return n, nil
	}
	if t.total.Add(1) > MaxNodes {
		t.total.Add(-1)
		return 0, fmt.Errorf("libguestfs: %w: more than %d files of this backup have been looked at in this session; start another session for more", fsys.ErrUnsupported, MaxNodes)
	}
	if given {
		t.next++
		t.own[key] = n
	}
	if vol == foreign {
		t.vols++
		vol = t.vols
	}
	t.nodes[n] = node{dir, strings.Clone(name), vol}
	return n, nil
}

// where returns an object's directory and name. Those of the root are itself and ".".
func (t *table) where(ino fsys.Ino) (dir fsys.Ino, name string, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, ok := t.nodes[ino]
	switch {
	case !ok:
		return 0, "", fmt.Errorf("inode %d: %w", ino, fs.ErrNotExist)
	case n.name == "":
		return ino, ".", nil
	}
	return n.parent, n.name, nil
}

// vol returns the subvolume that a directory's entries are in.
func (t *table) vol(dir fsys.Ino) uint32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[dir].vol
}

// path returns where an object is, relative to the root, which is "".
func (t *table) path(ino fsys.Ino) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var parts []string
	for at := ino; ; {
		n, ok := t.nodes[at]
		if !ok {
			return "", fmt.Errorf("inode %d: %w", ino, fs.ErrNotExist)
		}
		if n.name == "" {
			break
		}
		if len(parts) == maxDepth {
			return "", fmt.Errorf("libguestfs: %w: inode %d is more than %d directories deep", fsys.ErrUnsupported, ino, maxDepth)
		}
		parts = append(parts, n.name)
		at = n.parent
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), nil
}

// validName tells whether Linux can have returned a name. 1,024 bytes are more than any file
// system's limit (255 UTF-16 units of NTFS or exFAT are up to 765 bytes).
func validName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 1024 && !strings.ContainsAny(s, "/\x00")
}
