// Package fsys is the one file-system interface: what every engine (ext4, xfs, ntfs, fat,
// libguestfs) offers and what the tree reads.
//
// Non-goals: no paths, no symbolic-link resolution, no permission checks, no writing: those
// belong to the tree. Invariants: an FS is immutable, safe for concurrent use and addresses
// objects by inode number, so hard links are one object; names are bytes.
package fsys

import (
	"time"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
)

// Ino is an inode number within one file system, as the guest knows it.
type Ino uint64

// Cookie is a position in a directory. Zero is its start; any other value comes from
// Dirent.Next and stays valid as long as the FS. It is only meaningful for its directory.
type Cookie uint64

// Attr is what stat(2) tells. Mode is in Linux's encoding (S_IFMT and permission bits).
type Attr struct {
	Ino        Ino
	Mode       uint32
	Nlink      uint32
	UID, GID   uint32
	Size       int64 // bytes; of a symbolic link the length of its target
	Blocks     int64 // allocated 512-byte units
	BlockSize  uint32
	Major      uint32 // of a device node
	Minor      uint32
	Atime      time.Time
	Mtime      time.Time
	Ctime      time.Time
	Btime      time.Time // zero where the file system records none
	Generation uint32
}

// File types of Attr.Mode, as in inode(7).
const (
	ModeFmt     uint32 = 0o170000
	ModeSocket  uint32 = 0o140000
	ModeSymlink uint32 = 0o120000
	ModeRegular uint32 = 0o100000
	ModeBlock   uint32 = 0o060000
	ModeDir     uint32 = 0o040000
	ModeChar    uint32 = 0o020000
	ModeFIFO    uint32 = 0o010000
)

// IsDir tells whether the object is a directory.
func (a Attr) IsDir() bool { return a.Mode&ModeFmt == ModeDir }

// IsRegular tells whether the object is a regular file.
func (a Attr) IsRegular() bool { return a.Mode&ModeFmt == ModeRegular }

// IsSymlink tells whether the object is a symbolic link.
func (a Attr) IsSymlink() bool { return a.Mode&ModeFmt == ModeSymlink }

// Dirent is one name in a directory. "." and ".." are never returned.
type Dirent struct {
	Name string // bytes as the guest wrote them; not empty, no '/' and no NUL
	Ino  Ino
	Type uint32 // a Mode* file type; 0 where the directory does not record it
	Next Cookie // where reading goes on after this entry
}

// Info describes a file system as a whole.
type Info struct {
	Type      string // "ext4", "xfs", ...
	Label     string
	UUID      string // lower case with dashes
	BlockSize uint32 // bytes
	Total     uint64 // bytes
	Free      uint64 // bytes
	Files     uint64 // inodes, used and free; 0 where there is no such number
	FreeFiles uint64
	// Journal says what was found and done: "clean", "replayed 213 blocks of 12
	// transactions", "none". Empty for a file system without the notion.
	Journal string
	// Warnings are sentences for a person: what may be missing or different and why.
	Warnings []string
}

// FS is a read-only file system. Errors: fs.ErrNotExist for a name or inode that is not
// there, ErrNotDir, ErrCorrupt, ErrUnsupported, ErrNoKey, or an I/O error of the device.
type FS interface {
	Info() Info
	Root() Ino
	Stat(Ino) (Attr, error)
	// Lookup finds name in directory dir: O(log n) where the format has an index.
	Lookup(dir Ino, name string) (Ino, error)
	// ReadDir fills out with entries from position from on. It returns io.EOF, possibly
	// together with entries, when there are no more after the n it returned.
	ReadDir(dir Ino, from Cookie, out []Dirent) (n int, err error)
	Readlink(Ino) (string, error)
	// Open returns a regular file's bytes. Readers need no closing; they are valid until
	// the FS is closed.
	Open(Ino) (extent.Reader, error)
	Close() error
}

// Xattrer is an FS that has extended attributes. Names are as in xattr(7) ("user.x",
// "system.posix_acl_access", "security.capability") and so are the values' encodings.
type Xattrer interface {
	Xattrs(Ino) (map[string][]byte, error)
}

// Stream is a named fork of a file beside its main content: an NTFS alternate data stream.
type Stream struct {
	Name string // bytes as the guest wrote them (UTF-8 of its UTF-16), never empty
	Size int64  // bytes
}

// Streamer is an FS whose files can have named streams. Errors: fs.ErrNotExist for a stream
// that is not there. Small streams are shown as the attributes user.ads.<name>, too.
type Streamer interface {
	Streams(Ino) ([]Stream, error) // sorted by name; directories can have them, too
	OpenStream(ino Ino, name string) (extent.Reader, error)
}

// CacheStatser is an FS that keeps metadata in a cache and can tell how that serves.
type CacheStatser interface {
	CacheStats() cache.Stats
}
