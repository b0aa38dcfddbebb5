package jbd2_test

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// seeds are journals that the kernel left dirty, by variant.
var seeds = []struct{ name, variant string }{{"v3", "v3 64bit"}, {"none", "none 32bit"}, {"v1", "v1"}}

func TestSeeds(t *testing.T) {
	if !fsystest.Updating() {
		t.Skip("testdata is not to be made anew")
	}
	for _, s := range seeds {
		for _, v := range variants {
			if v.name != s.variant {
				continue
			}
			m := dirtyImage(t, v.mkfs, v.mount)
			fsystest.Store(t, s.name, io.NewSectionReader(m.journal(), 0, m.journal().Size()))
		}
	}
}

// seed is a journal of testdata as an image that has nothing else, of a device of 8 MiB.
func seed(t testing.TB, name string) *image {
	t.Helper()
	m := &image{blockSize: 1024, b: make([]byte, 8<<20)}
	n := copy(m.b, fsystest.Stored(t, name))
	for i := range n / m.blockSize {
		m.log = append(m.log, i)
	}
	return m
}

// FuzzLoad changes bytes of a real journal. The input is a byte that chooses the journal, then
// records of block(1), offset(2), value(1).
func FuzzLoad(f *testing.F) {
	var bases []*image
	for _, s := range seeds {
		bases = append(bases, seed(f, s.name))
	}
	for i := range bases {
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i), 0, 0, 31, 9, 2, 0, 14, 0xFF, 1, 3, 0xFF, 0x10})
		f.Add([]byte{byte(i), 0, 0, 43, 0x20, 0, 0, 0x57, 0x20})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		base := bases[int(in[0])%len(bases)]
		in = in[1:min(len(in), 1+4*512)]
		journal := base.b[:len(base.log)*base.blockSize]
		undo := make([]byte, 0, 512)
		at := func(i int) *byte {
			return &journal[int(in[i])*base.blockSize+int(binary.LittleEndian.Uint16(in[i+1:]))%base.blockSize]
		}
		last := len(in) / 4 * 4
		for i := 0; i < last; i += 4 {
			undo = append(undo, *at(i))
			*at(i) = in[i+3]
		}
		defer func() {
			for i := last - 4; i >= 0; i -= 4 {
				*at(i) = undo[i/4]
			}
		}()
		r, err := base.load()
		if err != nil {
			if !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, fsys.ErrUnsupported) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		if r.Blocks > len(base.log) || r.Transactions > len(base.log) || r.Clean && len(r.Patches) > 0 {
			t.Fatalf("%d blocks of %d transactions, clean %v", r.Blocks, r.Transactions, r.Clean)
		}
		o, err := extent.Overlay(extent.Zeros(8<<20), r.Patches)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(o, 0, o.Size())); err != nil {
			t.Fatal(err)
		}
	})
}
