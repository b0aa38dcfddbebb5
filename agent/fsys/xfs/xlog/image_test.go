package xlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/xfs/xlog"
	"vmfr/test/fixture"
)

const basicBlock = 512

// image is a small XFS file system in memory.
type image struct {
	b []byte
	g xlog.Geometry
	// logAt and logSize are where the log lies, in bytes.
	logAt, logSize int
}

// geometry decodes the superblock, as the reader of the file system does.
func geometry(sb []byte) xlog.Geometry {
	be := binary.BigEndian
	g := xlog.Geometry{
		BlockSize: be.Uint32(sb[4:]), InodeSize: uint32(be.Uint16(sb[104:])), AGBlocks: be.Uint32(sb[84:]), AGCount: be.Uint32(sb[88:]),
		AGBlockLog: sb[124], InoPerLog: sb[123], InodeAlign: be.Uint32(sb[180:]),
		LogStart: be.Uint64(sb[48:]), LogBlocks: be.Uint32(sb[96:]), LogSunit: be.Uint32(sb[196:]),
	}
	version := be.Uint16(sb[100:])
	g.V5, g.LogV2 = version&15 == 5, version&0x0400 != 0
	copy(g.UUID[:], sb[32:])
	g.MetaUUID = g.UUID
	if g.V5 {
		g.LSN, g.LogIncompat = be.Uint64(sb[240:]), be.Uint32(sb[220:])
		incompat := be.Uint32(sb[216:])
		g.Nrext64 = incompat&(1<<5) != 0
		if incompat&(1<<2) != 0 {
			copy(g.MetaUUID[:], sb[248:])
		}
	}
	return g
}

func newImage(b []byte) *image {
	m := &image{b: b, g: geometry(b)}
	ag := int(m.g.LogStart >> m.g.AGBlockLog)
	m.logAt = (ag*int(m.g.AGBlocks) + int(m.g.LogStart&(1<<m.g.AGBlockLog-1))) * int(m.g.BlockSize)
	m.logSize = int(m.g.LogBlocks) * int(m.g.BlockSize)
	return m
}

func (m *image) clone() *image {
	c := *m
	c.b = bytes.Clone(m.b)
	return &c
}

// log is the log's bytes.
func (m *image) log() []byte { return m.b[m.logAt : m.logAt+m.logSize] }

func (m *image) replay() (extent.Reader, xlog.Report, error) {
	return xlog.Replay(extent.Bytes(m.b), m.g)
}

// dirtyImage makes a small file system, mounts it, runs load, and stops it as a crash would.
// prepare are programs to be run on the image before.
func dirtyImage(t testing.TB, size int64, mkfs []string, flush bool, load func(dir string) error, prepare ...[]string) *image {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "mkfs.xfs")
	img := filepath.Join(t.TempDir(), "xfs.img")
	fixture.Sparse(t, img, size)
	// Without --unsupported mkfs.xfs makes nothing below 300 MiB.
	fixture.Run(t, "mkfs.xfs", append(append([]string{"--unsupported", "-q", "-f"}, mkfs...), img)...)
	for _, p := range prepare {
		fixture.Run(t, p[0], append(p[1:], img)...)
	}
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	if err := load(dir); err != nil {
		t.Fatal(err)
	}
	fixture.Shutdown(t, dir, flush)
	fixture.Unmount(t, dir)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return newImage(b)
}

// kernelReplay mounts and unmounts a copy, and returns what the kernel made of it, or false
// where it refuses to mount.
func kernelReplay(t testing.TB, m *image) (*image, bool) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := writeSparse(img, m.b); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(img) }()
	dir, err := fixture.TryMount(t, img, "xfs", "rw,noatime", 0, 0)
	if err != nil {
		t.Log(err)
		return nil, false
	}
	fixture.Unmount(t, dir)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return newImage(b), true
}

// writeSparse writes a file with holes where b is zeros.
func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	const piece = 64 << 10
	zeros := make([]byte, piece)
	err = f.Truncate(int64(len(b)))
	for off := 0; off < len(b) && err == nil; off += piece {
		if p := b[off:min(off+piece, len(b))]; !bytes.Equal(p, zeros[:len(p)]) {
			_, err = f.WriteAt(p, int64(off))
		}
	}
	return errors.Join(err, f.Close())
}

// difference names the byte offset of the first sector, other than the superblock and the log,
// whose contents differ between ours and the kernel's; -1: none. The kernel counts the
// superblock's totals anew. Where the log leaves something to finish, it goes on to free space and
// inodes without a name, which no reader sees: then free space and inode maps may differ, and
// inodes without a link.
func difference(t testing.TB, m, kernel *image, ours extent.Reader, r xlog.Report) int {
	t.Helper()
	b := make([]byte, len(m.b))
	if _, err := extent.ReadFull(ours, b, 0); err != nil {
		t.Fatal(err)
	}
	unfinished := r.Intents > 0 || hasUnlinked(b, m.g)
	for at := basicBlock; at < len(b); at += basicBlock {
		if at >= m.logAt && at < m.logAt+m.logSize || bytes.Equal(b[at:at+basicBlock], kernel.b[at:at+basicBlock]) {
			continue
		}
		if !unfinished || !finished(m.g, b, kernel.b, at) {
			return at
		}
	}
	return -1
}

// hasUnlinked tells whether a group's list of unlinked inodes has any.
func hasUnlinked(b []byte, g xlog.Geometry) bool {
	const bucketsAt, buckets = 40, 64
	sector := int(binary.BigEndian.Uint16(b[102:]))
	for ag := range int(g.AGCount) {
		agi := b[ag*int(g.AGBlocks)*int(g.BlockSize)+2*sector:]
		if !bytes.Equal(agi[bucketsAt:bucketsAt+4*buckets], bytes.Repeat([]byte{0xFF}, 4*buckets)) {
			return true
		}
	}
	return false
}

// finished tells whether the sector at byte at of the kernel's device may differ from ours because
// of what follows the replay.
func finished(g xlog.Geometry, ours, kernel []byte, at int) bool {
	if block := at / int(g.BlockSize) % int(g.AGBlocks); block*int(g.BlockSize)+at%int(g.BlockSize) < 4*int(binary.BigEndian.Uint16(ours[102:])) {
		return true // a group's headers
	}
	start := at / int(g.BlockSize) * int(g.BlockSize)
	switch string(kernel[start : start+4]) {
	case "AB3B", "AB3C", "IAB3", "FIB3", "RMB3", "R3FC":
		return true
	}
	start = at / int(g.InodeSize) * int(g.InodeSize)
	d, k := ours[start:start+int(g.InodeSize)], kernel[start:start+int(g.InodeSize)]
	if string(d[:2]) != "IN" || string(k[:2]) != "IN" {
		return false
	}
	links := binary.BigEndian.Uint32(d[16:])
	return links == 0
}
