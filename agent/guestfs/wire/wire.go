// Package wire is what the libguestfs engine and its helper process say to each other over a
// socket pair: requests with numbers, and replies to them in any order.
//
// A frame is
//
//	bytes 0-3   length of the header, big endian, at most MaxHeader
//	bytes 4-7   length of the payload, big endian, at most MaxPayload
//	then        the header: a Request or a Reply in JSON; names are base64, since they are bytes
//	then        the payload: file content, as it is
//
// Non-goals: compatibility between versions, since both ends are the same program. Invariants:
// nothing is allocated for a length that exceeds its limit; a frame that breaks a rule ends the
// connection, because neither end can say where the next one starts.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// MaxHeader holds MaxNames names of 255 bytes with their attributes, and some long link
	// targets; a sender splits what is larger.
	MaxHeader = 4 << 20
	// MaxPayload is what one Read may ask for: libguestfs' messages end at 4 MiB, with a header.
	MaxPayload = 3 << 20
	// MaxNames bounds the names of one request and the entries of one reply: libguestfs asks
	// the appliance for 1,000 at a time.
	MaxNames = 1000
	// MaxDisks bounds what one appliance is given: libguestfs takes 255, with its own.
	MaxDisks = 250
	// MaxFilesystems bounds what one appliance may find: each is mounted.
	MaxFilesystems = 1024
)

// Op is what a request asks for.
type Op string

// The requests. Probe may come first; then Start, then Scan; every path is below a Mount.
const (
	Probe  Op = "probe"  // tell whether KVM works here, which takes up to some seconds
	Start  Op = "start"  // boot the appliance
	Scan   Op = "scan"   // unlock, assemble and list what is on the disks
	Mount  Op = "mount"  // mount Device with Options at Path
	ReadD  Op = "dir"    // list directory Path: names with ".", attributes, link targets; several replies
	Stat   Op = "stat"   // attributes and link targets of Names in directory Path
	Xattrs Op = "xattrs" // extended attributes of Names in directory Path
	Read   Op = "read"   // Count bytes at Offset of file Path
)

// Request is from the engine to the helper.
type Request struct {
	ID      uint64
	Op      Op
	Disks   int      `json:",omitempty"` // Start: how many; see sandbox.DiskSocket
	KVM     bool     `json:",omitempty"` // Start
	Memory  int      `json:",omitempty"` // Start: the appliance's, in MiB; 0: libguestfs' default
	Keys    []Key    `json:",omitempty"` // Scan
	Device  string   `json:",omitempty"` // Mount
	Options string   `json:",omitempty"` // Mount
	Path    []byte   `json:",omitempty"`
	Names   [][]byte `json:",omitempty"`
	Offset  int64    `json:",omitempty"`
	Count   int      `json:",omitempty"`
}

// Key is a passphrase or key file's content to try on encrypted devices.
type Key struct {
	Disk   int // the disk's index; negative: any
	Secret []byte
}

// Reply is from the helper to the engine. A request has one or more; More is set in all but
// the last. Err ends a request.
type Reply struct {
	ID      uint64
	More    bool     `json:",omitempty"`
	Err     *Error   `json:",omitempty"`
	Lost    bool     `json:",omitempty"` // with Err: the appliance has ended, and the helper ends
	KVM     bool     `json:",omitempty"` // Probe
	Volumes []Volume `json:",omitempty"` // Scan
	Mounted *Mounted `json:",omitempty"` // Mount
	Entries []Entry  `json:",omitempty"` // ReadD, Stat, Xattrs
}

// Error is why a request failed.
type Error struct {
	Errno   int    // the appliance's, as in Linux; 0: none
	Message string // of libguestfs, for people
}

// Volume is a device that holds a file system, as the appliance sees it.
type Volume struct {
	Device    string
	Disk      int // index, -1: none alone
	Partition int // 0: the whole disk
	VG, LV    string
	Encrypted bool
	Locked    bool // encrypted, and no key fits
	Type      string
	Label     string
	UUID      string
	Subvolume string // btrfs
	SubvolID  uint64 // btrfs; 0: not a btrfs
	Default   bool
}

// Mounted describes a file system that was mounted.
type Mounted struct {
	Root               Attr
	BlockSize          int64
	Blocks, FreeBlocks int64 // in BlockSize
	Files, FreeFiles   int64
	Degraded           bool // devices are missing
}

// Entry is one name in a directory.
type Entry struct {
	Name   []byte
	Errno  int     `json:",omitempty"` // why there is no more
	Attr   *Attr   `json:",omitempty"`
	Target []byte  `json:",omitempty"` // of a symbolic link
	Xattrs []Xattr `json:",omitempty"`
}

// Attr is the appliance's stat, its fields as in stat(2).
type Attr struct {
	Dev, Ino, Mode, Nlink, UID, GID, Rdev, Size, BlockSize, Blocks int64
	Atime, Mtime, Ctime                                            [2]int64 // seconds, nanoseconds
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// ErrFrame reports a frame that breaks a rule.
var ErrFrame = errors.New("the other end does not keep to the protocol")

// ErrTooLarge reports a header that must be split; nothing was sent.
var ErrTooLarge = errors.New("message too large")

// Conn sends and receives frames. One goroutine may receive while several send.
type Conn struct {
	r  *bufio.Reader
	mu sync.Mutex
	w  io.Writer
}

// NewConn makes a Conn of a stream.
func NewConn(rw io.ReadWriter) *Conn { return &Conn{r: bufio.NewReaderSize(rw, 64<<10), w: rw} }

// Send writes a frame: header is a *Request or a *Reply.
func (c *Conn) Send(header any, payload []byte) error {
	h, err := json.Marshal(header)
	if err != nil {
		return err
	}
	if len(h) > MaxHeader || len(payload) > MaxPayload {
		return fmt.Errorf("%w: %d and %d bytes", ErrTooLarge, len(h), len(payload))
	}
	b := make([]byte, 8, 8+len(h))
	binary.BigEndian.PutUint32(b, uint32(len(h)))
	binary.BigEndian.PutUint32(b[4:], uint32(len(payload)))
	b = append(b, h...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.w.Write(b); err != nil {
		return err
	}
	if len(payload) == 0 {
		return nil
	}
	_, err = c.w.Write(payload)
	return err
}

// Receive reads a frame into header, and returns the payload. Errors: io.EOF at the end of the
// stream, ErrFrame, or the stream's.
func (c *Conn) Receive(header any) ([]byte, error) {
	var l [8]byte
	if _, err := io.ReadFull(c.r, l[:]); err != nil {
		return nil, err
	}
	hn, pn := binary.BigEndian.Uint32(l[:]), binary.BigEndian.Uint32(l[4:])
	if hn > MaxHeader || pn > MaxPayload {
		return nil, fmt.Errorf("%w: lengths %d and %d", ErrFrame, hn, pn)
	}
	b := make([]byte, int(hn)+int(pn))
	if _, err := io.ReadFull(c.r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if err := json.Unmarshal(b[:hn], header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return b[hn:], nil
}
