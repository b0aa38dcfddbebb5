package fusefs

import (
	"errors"
	iofs "io/fs"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// Lookup finds a name. A name that is not there is an answer too (node id 0), and kept.
func (v *view) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	v.o.Counters.Count(tree.OpLookup)
	dir, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	keep := v.valid(dir) // before the answer: what changes meanwhile is asked for again
	if st := v.await(cancel, dir); !st.Ok() {
		return st
	}
	n, err := v.t.Lookup(dir, name)
	if errors.Is(err, iofs.ErrNotExist) {
		out.EntryValid = keep
		return fuse.OK
	}
	if err != nil {
		return v.fail("lookup", in.NodeId, err)
	}
	if err := v.entry(n, keep, out); err != nil {
		return v.fail("lookup", v.t.ID(n), err)
	}
	return fuse.OK
}

// valid is how long the kernel may keep the names in a directory and its attributes.
func (v *view) valid(dir tree.Node) uint64 {
	if v.t.Volatile(dir) {
		return 0
	}
	return validity
}

// entry fills what the kernel keeps for a name that leads to n; keep is for how long.
func (v *view) entry(n tree.Node, keep uint64, out *fuse.EntryOut) error {
	attr := v.valid(n)
	a, err := v.t.Attr(n)
	if err != nil {
		return err
	}
	out.NodeId = uint64(a.Ino)
	out.Generation = uint64(a.Generation)
	out.EntryValid = keep
	out.AttrValid = attr
	setAttr(&out.Attr, &a)
	return nil
}

// stat counts one request for attributes and returns them, and how long they may be kept.
func (v *view) stat(id uint64) (fsys.Attr, uint64, fuse.Status) {
	v.o.Counters.Count(tree.OpStat)
	n, st := v.node(id)
	if !st.Ok() {
		return fsys.Attr{}, 0, st
	}
	valid := v.valid(n)
	a, err := v.t.Attr(n)
	if err != nil {
		return fsys.Attr{}, 0, v.fail("stat", id, err)
	}
	return a, valid, fuse.OK
}

// GetAttr answers stat(2).
func (v *view) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, valid, st := v.stat(in.NodeId)
	if !st.Ok() {
		return st
	}
	out.AttrValid = valid
	setAttr(&out.Attr, &a)
	return fuse.OK
}

// Statx answers statx(2) where the time of birth is asked for.
func (v *view) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	a, valid, st := v.stat(in.NodeId)
	if !st.Ok() {
		return st
	}
	out.AttrValid = valid
	s := &out.Statx
	s.Mask = unix.STATX_BASIC_STATS
	s.Ino, s.Mode, s.Nlink, s.Uid, s.Gid = uint64(a.Ino), uint16(a.Mode), a.Nlink, a.UID, a.GID
	s.Size, s.Blocks, s.Blksize = uint64(a.Size), uint64(a.Blocks), a.BlockSize
	s.RdevMajor, s.RdevMinor = a.Major, a.Minor
	s.Atime, s.Mtime, s.Ctime = sxTime(a.Atime), sxTime(a.Mtime), sxTime(a.Ctime)
	if !a.Btime.IsZero() {
		s.Mask |= unix.STATX_BTIME
		s.Btime = sxTime(a.Btime)
	}
	return fuse.OK
}

func sxTime(t time.Time) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
}

// setAttr translates attributes. Seconds before 1970 are negative numbers in two's complement.
func setAttr(out *fuse.Attr, a *fsys.Attr) {
	*out = fuse.Attr{
		Ino: uint64(a.Ino), Size: uint64(a.Size), Blocks: uint64(a.Blocks),
		Atime: uint64(a.Atime.Unix()), Atimensec: uint32(a.Atime.Nanosecond()),
		Mtime: uint64(a.Mtime.Unix()), Mtimensec: uint32(a.Mtime.Nanosecond()),
		Ctime: uint64(a.Ctime.Unix()), Ctimensec: uint32(a.Ctime.Nanosecond()),
		Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev: rdev(a.Major, a.Minor), Blksize: a.BlockSize,
	}
}

// rdev packs a device number as the FUSE protocol does: 12 bits major, 20 bits minor, the
// kernel's new_encode_dev.
func rdev(major, minor uint32) uint32 {
	return minor&0xff | (major&0xfff)<<8 | (minor&0xfff00)<<12
}

// Readlink tells the target as the guest recorded it.
func (v *view) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	v.o.Counters.Count(tree.OpReadlink)
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	target, err := v.t.Readlink(n)
	if err != nil {
		return nil, v.fail("readlink", in.NodeId, err)
	}
	return []byte(target), fuse.OK
}

// statfsBlock is the unit of statfs where no file system tells its own.
const statfsBlock = 4096

// StatFs describes the file system that the node lies in.
func (v *view) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	v.o.Counters.Count(tree.OpStat)
	n, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	info, static, err := v.t.Info(n)
	switch {
	case err != nil:
		return v.fail("statfs", in.NodeId, err)
	case static:
		*out = v.whole
	default:
		*out = statfs(info)
	}
	return fuse.OK
}

func statfs(i fsys.Info) fuse.StatfsOut {
	block := i.BlockSize
	if block == 0 {
		block = statfsBlock
	}
	free := min(i.Free, i.Total) / uint64(block)
	return fuse.StatfsOut{
		Blocks: i.Total / uint64(block), Bfree: free, Bavail: free,
		Files: i.Files, Ffree: min(i.FreeFiles, i.Files),
		Bsize: block, Frsize: block, NameLen: nameLen,
	}
}

// nameLen is the longest name in bytes that statfs announces. NTFS has 255 UTF-16 units, which
// are up to 765 bytes, but programs size their buffers by NAME_MAX.
const nameLen = 255
