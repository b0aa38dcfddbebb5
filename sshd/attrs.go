package sshd

import (
	"encoding/binary"
	"io"
	"math"
	"os"
	"syscall"
	"time"

	"github.com/pkg/sftp"

	"vmfr/agent/fsys"
)

// one is the list that describes one object.
type one struct{ info }

func (o one) ListAt(out []os.FileInfo, off int64) (int, error) {
	if off > 0 || len(out) == 0 {
		return 0, io.EOF
	}
	out[0] = o.info
	return 1, nil
}

// atimeMark names the extended attribute that carries the time of last access to wire.
const atimeMark = "atime@vmfr"

// info is an object as pkg/sftp takes it.
type info struct {
	name string
	a    fsys.Attr
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.a.Size }
func (i info) IsDir() bool        { return i.a.IsDir() }
func (i info) ModTime() time.Time { return time.Unix(int64(seconds(i.a.Mtime)), 0).UTC() }
func (i info) Sys() any           { return &syscall.Stat_t{Nlink: uint64(i.a.Nlink), Uid: i.a.UID, Gid: i.a.GID} }

// Extended hands the time of last access to wire, which takes it out again.
func (i info) Extended() []sftp.StatExtended {
	return []sftp.StatExtended{{ExtType: atimeMark, ExtData: string(binary.BigEndian.AppendUint32(nil, seconds(i.a.Atime)))}}
}

// seconds is t in the protocol's 32 unsigned bits of seconds since 1970, the nearest that fits.
func seconds(t time.Time) uint32 {
	return uint32(max(0, min(t.Unix(), math.MaxUint32)))
}

// Mode translates Linux's encoding into Go's.
func (i info) Mode() os.FileMode {
	m := os.FileMode(i.a.Mode & 0o777)
	switch i.a.Mode & fsys.ModeFmt {
	case fsys.ModeDir:
		m |= os.ModeDir
	case fsys.ModeSymlink:
		m |= os.ModeSymlink
	case fsys.ModeSocket:
		m |= os.ModeSocket
	case fsys.ModeFIFO:
		m |= os.ModeNamedPipe
	case fsys.ModeBlock:
		m |= os.ModeDevice
	case fsys.ModeChar:
		m |= os.ModeDevice | os.ModeCharDevice
	}
	if i.a.Mode&0o4000 != 0 {
		m |= os.ModeSetuid
	}
	if i.a.Mode&0o2000 != 0 {
		m |= os.ModeSetgid
	}
	if i.a.Mode&0o1000 != 0 {
		m |= os.ModeSticky
	}
	return m
}
