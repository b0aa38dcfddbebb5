package ntfs

import (
	"bytes"
	"encoding/binary"
	"testing"

	"vmfr/agent/extent"
)

// fuzzOptions keep the caches small: a fuzz target opens thousands of file systems.
var fuzzOptions = Options{CacheBytes: 1, InflatedBytes: 512 << 10}

// FuzzImage opens a damaged image, walks it and reads everything. The input is records of four
// bytes: the number of a sector that holds anything, the offset in it (2), the value. Protected
// structures are sealed again, or every change would only be a torn write; a value of the
// offset's top bit leaves that out.
func FuzzImage(f *testing.F) {
	h := newHostile(f)
	image := h.b
	type protected struct{ at, n int }
	owner := map[int]protected{} // by sector of the image
	for num := range h.fs.mft.records {
		at := h.record(num)
		for i := 0; i < h.fs.boot.record; i += stride {
			owner[(at+i)/stride] = protected{at, h.fs.boot.record}
		}
	}
	for _, path := range []string{".", "big"} {
		n := must(h.fs.object(rootIno))
		if path != "." {
			n = h.object(path)
		}
		x := must(n.openIndex(nameI30))
		for i := range x.count {
			_, at, err := x.alloc.(*stream).Span(int64(i*x.block), 1)
			check(f, err)
			for k := 0; k < int(x.block); k += stride {
				owner[(int(at)+k)/stride] = protected{int(at), int(x.block)}
			}
		}
	}
	var hot []int // the boot sector, records, index blocks, and what holds text
	zero := make([]byte, stride)
	for s := range len(image) / stride {
		_, ok := owner[s]
		if b := image[s*stride : (s+1)*stride]; s == 0 || ok && !bytes.Equal(b, zero) || bytes.Contains(b, []byte("$\x00I\x003")) {
			hot = append(hot, s)
		}
	}
	hot = append(hot, listSectors(h)...)
	f.Logf("%d sectors", len(hot))
	f.Add([]byte{0, 0x0D, 0, 8})
	f.Add([]byte{1, 0x14, 0, 0x40, 9, 0x38, 0, 1})
	f.Add([]byte{200, 0x52, 0, '/'})
	for i := byte(1); i < 250; i += 25 {
		f.Add([]byte{i, 0x18, 0, 0xFF, i + 1, 0x40, 0, 0x80, i + 2, 0x10, 1, 3})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		type change struct {
			at  int
			old []byte
		}
		var undo []change
		defer func() {
			for i := len(undo) - 1; i >= 0; i-- {
				copy(image[undo[i].at:], undo[i].old)
			}
		}()
		for in = in[:min(len(in), 4*64)]; len(in) >= 4; in = in[4:] {
			s := hot[(int(in[0])|int(in[2]&0x70)<<4)%len(hot)]
			off := int(binary.LittleEndian.Uint16(in[1:])) % stride
			p, ok := owner[s]
			if !ok || in[2]&0x80 != 0 {
				at := s*stride + off
				undo = append(undo, change{at, []byte{image[at]}})
				image[at] = in[3]
				continue
			}
			b := image[p.at : p.at+p.n]
			undo = append(undo, change{p.at, bytes.Clone(b)})
			if fixup(b) != nil {
				continue
			}
			in := in
			b[s*stride-p.at+off] = in[3]
			if u, n := get16(b, 4), get16(b, 6); n == p.n/stride+1 && u >= 8 && u+2*n <= stride-2 {
				seal(b)
			}
		}
		fs, err := Open(extent.Bytes(image), fuzzOptions)
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatalf("open: an error of no kind: %v", err)
			}
			return
		}
		if err := survey(fs); err != nil && !ofKnownKind(err) {
			t.Fatal(err)
		}
	})
}

// listSectors are those of the attribute list of deep, where it is not resident.
func listSectors(h *hostile) []int {
	n := h.object("deep")
	a := must(n.rec.find(typeList, nil))
	if a.resident {
		return nil
	}
	lcn, count := must(h.fs.decodeRuns(n.rec.num, a)).at(0)
	var out []int
	for i := range int64(count) {
		out = append(out, int((lcn+i)*int64(h.fs.boot.cluster)/stride))
	}
	return out
}

// FuzzInflate decodes arbitrary bytes as LZNT1, and holds what it gives to a decoder that does
// one byte at a time.
func FuzzInflate(f *testing.F) {
	h := newHostile(f)
	f.Add(bytes.Clone(unit(h)[:3000]))
	f.Add([]byte("\x03\xb0\x02a\xfc\x0f"))
	f.Add([]byte("\x04\xb0\x04ab\x01\x10\x02\x30abc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got := bytes.Repeat([]byte{0xEE}, 3*lzChunk)
		err := inflate(got, in)
		want, ok := slowInflate(len(got), in)
		if ok != (err == nil) {
			t.Fatalf("%v, and the plain decoder: %v", err, ok)
		}
		if ok && !bytes.Equal(got, want) {
			t.Fatal("the plain decoder gives other bytes")
		}
	})
}

// slowInflate is LZNT1 as [MS-XCA] describes it, without any haste.
func slowInflate(size int, src []byte) ([]byte, bool) {
	var out []byte
	for len(out) < size && len(src) >= 2 {
		h := int(src[0]) | int(src[1])<<8
		if h == 0 {
			break
		}
		n := h&0xFFF + 1
		if h>>12&7 != 3 || 2+n > len(src) {
			return nil, false
		}
		data := src[2 : 2+n]
		src = src[2+n:]
		var chunk []byte
		if h>>15 == 0 {
			chunk = append(chunk, data...)
		}
		for h>>15 == 1 && len(data) > 0 {
			flags := data[0]
			data = data[1:]
			for bit := 0; bit < 8 && len(data) > 0; bit++ {
				if flags>>bit&1 == 0 {
					chunk, data = append(chunk, data[0]), data[1:]
					continue
				}
				if len(data) < 2 {
					return nil, false
				}
				token := int(data[0]) | int(data[1])<<8
				data = data[2:]
				distBits := 4
				for 1<<distBits < len(chunk) {
					distBits++
				}
				length, dist := token&(1<<(16-distBits)-1)+3, token>>(16-distBits)+1
				if dist > len(chunk) || len(chunk)+length > lzChunk {
					return nil, false
				}
				for range length {
					chunk = append(chunk, chunk[len(chunk)-dist])
				}
			}
			if len(chunk) > lzChunk {
				return nil, false
			}
		}
		out = append(out, append(chunk, make([]byte, lzChunk-len(chunk))...)...)
	}
	return append(out, make([]byte, size-len(out))...), true
}

// FuzzRuns decodes arbitrary bytes as mapping pairs: the runs must cover the clusters without
// gaps and lie in the volume.
func FuzzRuns(f *testing.F) {
	h := newHostile(f)
	for _, path := range []string{"good", "deep", "c/text"} {
		a := must(h.object(path).find(typeData, nil))
		f.Add(bytes.Clone(a.pairs), a.first, a.last)
	}
	f.Add([]byte("\x88\xff\xff\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x7f"), uint64(0), uint64(1<<62))
	f.Fuzz(func(t *testing.T, pairs []byte, first, last uint64) {
		if last+1 < first || last+1 > 1<<62 { // parseAttr refuses them
			return
		}
		rl, err := h.fs.decodeRuns(64, &attr{pairs: pairs, first: first, last: last})
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatal(err)
			}
			return
		}
		if rl.first != first || rl.end != last+1 {
			t.Fatalf("clusters %d to %d", rl.first, rl.end)
		}
		vcn, steps := first, 0
		for ; vcn < rl.end; steps++ {
			lcn, n := rl.at(vcn)
			if n == 0 || n > rl.end-vcn || lcn != hole && (lcn < 0 || uint64(lcn)+n > h.fs.boot.clusters) {
				t.Fatalf("%d clusters at %d for %d", n, lcn, vcn)
			}
			vcn += n
		}
		if steps != len(rl.runs) {
			t.Fatalf("%d runs, %d found", len(rl.runs), steps)
		}
	})
}
