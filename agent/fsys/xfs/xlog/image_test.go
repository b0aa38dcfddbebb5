package xlog_test

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/xfs/xlog"
	"vmfr/test/fixture"
)

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

// replay opens an image and replays its log.
func replay(t testing.TB, r extent.Reader) (extent.Reader, xlog.Report, error) {
	t.Helper()
	sb := make([]byte, 512)
	if _, err := r.ReadAt(sb, 0); err != nil {
		t.Fatal(err)
	}
	return xlog.Replay(r, geometry(sb))
}

// save writes what a Reader holds to a file, holes where there are zeros.
func save(t testing.TB, r extent.Reader) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replayed.img")
	fixture.Sparse(t, path, r.Size())
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, zero := make([]byte, 1<<20), make([]byte, 4096)
	for off := int64(0); off < r.Size(); off += int64(len(b)) {
		n, err := r.ReadAt(b, off)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for i := 0; i < n; i += len(zero) {
			p := b[i:min(i+len(zero), n)]
			if string(p) == string(zero[:len(p)]) {
				continue
			}
			if _, err := f.WriteAt(p, off+int64(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}
