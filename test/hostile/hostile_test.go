package hostile

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/image"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// Bounds of one damaged image.
const (
	caseLimit   = 60 * time.Second // a walk takes milliseconds; on a loaded machine some more
	memoryLimit = 200              // MiB, peak resident size of the whole test process above its start
)

// change is one damaged byte or number.
type change struct {
	mark  uint32 // which sector, modulo their number
	at    uint16 // where in it, modulo its size
	how   uint8  // see apply
	value uint8
}

const changeSize = 8

// parse reads changes from a fuzzer's bytes.
func parse(b []byte) []change {
	var cs []change
	for ; len(b) >= changeSize && len(cs) < 64; b = b[changeSize:] {
		cs = append(cs, change{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), b[6], b[7]})
	}
	return cs
}

// apply damages a sector: a bit, a byte, a number of four bytes of either end, or all of it.
func (c change) apply(s []byte) {
	at := int(c.at) % len(s)
	word := s[min(at, len(s)-4)&^3:]
	switch c.how % 8 {
	case 0, 1:
		s[at] ^= 1 << (c.value % 8)
	case 2:
		s[at] = c.value
	case 3:
		copy(word, []byte{0xff, 0xff, 0xff, 0xff})
	case 4:
		binary.LittleEndian.PutUint32(word, binary.LittleEndian.Uint32(word)+uint32(c.value)-128)
	case 5:
		binary.BigEndian.PutUint32(word, binary.BigEndian.Uint32(word)+uint32(c.value)-128)
	case 6:
		binary.LittleEndian.PutUint32(word, c.mark>>(c.value%32))
	case 7:
		if c.value < 32 {
			clear(s)
		} else {
			copy(word, s[:4])
		}
	}
}

// damaged returns the disks with changes. Raw ones are changed in memory; a qcow2, whose reader
// takes a file, in a copy.
func (b base) damaged(t testing.TB, cs []change) (disks []tree.Disk, done func()) {
	t.Helper()
	sectors := map[mark][]byte{}
	var order []mark
	var closers []func() error
	files := make([]*os.File, len(b.disks))
	for i, d := range b.disks {
		f, err := os.Open(d.path)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
		closers = append(closers, f.Close)
	}
	for _, c := range cs {
		m := b.marks[int(c.mark)%len(b.marks)]
		s, ok := sectors[m]
		if !ok {
			s = make([]byte, sectorSize)
			if _, err := files[m.disk].ReadAt(s, m.sector*sectorSize); err != nil {
				t.Fatal(err)
			}
			sectors[m] = s
			order = append(order, m)
		}
		c.apply(s)
	}
	for i, d := range b.disks {
		name := "d" + strconv.Itoa(i)
		if d.format != image.FormatRaw {
			disks = append(disks, qcow2(t, name, d.path, i, sectors, &closers))
			continue
		}
		r, err := image.Open(image.Source{File: files[i], Format: image.FormatRaw}, image.Options{})
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, r.Close)
		var patches []extent.Patch
		for _, m := range order {
			if m.disk == i {
				patches = append(patches, extent.Patch{Off: m.sector * sectorSize, Data: extent.Bytes(sectors[m])})
			}
		}
		over, err := extent.Overlay(r, patches)
		if err != nil {
			t.Fatal(err)
		}
		disks = append(disks, tree.Disk{Name: name, Format: "raw", Reader: over})
	}
	return disks, func() {
		for i := range closers {
			if err := closers[len(closers)-1-i](); err != nil {
				t.Error(err)
			}
		}
	}
}

func qcow2(t testing.TB, name, path string, i int, sectors map[mark][]byte, closers *[]func() error) tree.Disk {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for m, s := range sectors {
		if m.disk == i {
			copy(b[m.sector*sectorSize:], s)
		}
	}
	f, err := os.Create(path + ".damaged") // always the same name, which is part of errors
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	*closers = append(*closers, func() error { return os.Remove(f.Name()) }, f.Close)
	m, err := image.Open(image.Source{File: f, Format: image.FormatQCOW2}, image.Options{})
	if err != nil {
		return tree.Disk{Name: name, Format: "qcow2", Err: err}
	}
	*closers = append(*closers, m.Close)
	return tree.Disk{Name: name, Format: "qcow2", Reader: m}
}

// try walks the damaged disks twice: the answers must be the same.
func (b base) try(t testing.TB, cs []change) answer {
	t.Helper()
	late := time.AfterFunc(caseLimit, func() {
		buf := make([]byte, 1<<20)
		panic(fmt.Sprintf("%s with %v does not end:\n%s", b.name, cs, buf[:runtime.Stack(buf, true)]))
	})
	defer late.Stop()
	var as [2]answer
	for i := range as {
		disks, done := b.damaged(t, cs)
		as[i] = ask(t, disks)
		done()
	}
	if as[0].sum != as[1].sum {
		t.Errorf("%s with %v: two answers for the same image", b.name, cs)
	}
	if t.Failed() {
		t.Fatalf("%s with %v", b.name, cs)
	}
	return as[0]
}

// TestDamagedImages damages every image many times, always in the same places.
func TestDamagedImages(t *testing.T) {
	cases := 200
	if testing.Short() {
		cases = 15
	}
	start := peak(t)
	for _, b := range bases(t) {
		t.Run(b.name, func(t *testing.T) {
			sound := b.try(t, nil)
			if sound.errors > 0 || sound.objects < 140 {
				t.Fatalf("undamaged: %d objects, %d errors: %+v", sound.objects, sound.errors, sound.reports)
			}
			for _, d := range sound.reports[0].Disks {
				if d.State != tree.StateReadable && len(b.disks) == 1 {
					t.Fatalf("undamaged: %+v", d)
				}
			}
			rng := rand.New(rand.NewPCG(1, uint64(len(b.name))))
			noticed := 0
			for range cases {
				cs := make([]change, 1+rng.IntN(4))
				for i := range cs {
					// The first sectors are few and decide most, so half of the damage is there.
					m := rng.Uint32N(uint32(len(b.marks)))
					if rng.IntN(2) == 0 {
						m = rng.Uint32N(uint32(min(24, len(b.marks))))
					}
					cs[i] = change{m, uint16(rng.Uint32()), uint8(rng.Uint32()), uint8(rng.Uint32())}
				}
				if b.try(t, cs).sum != sound.sum {
					noticed++
				}
			}
			if noticed < cases/20 {
				t.Errorf("only %d of %d damaged images gave another answer: the damage misses what is read", noticed, cases)
			}
			t.Logf("%d of %d damaged images gave another answer; peak memory %d MiB above the start", noticed, cases, peak(t)-start)
		})
	}
	if grown := peak(t) - start; grown > memoryLimit {
		t.Errorf("peak memory grew by %d MiB, more than %d", grown, memoryLimit)
	}
}

// peak is the process's peak resident size in MiB.
func peak(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// FuzzImage damages images where the fuzzer says: the first byte chooses the image.
func FuzzImage(f *testing.F) {
	fixture.NeedRoot(f)
	all := bases(f)
	for i := range all {
		for seed := range byte(3) {
			f.Add(append([]byte{byte(i)}, seed*40, 0, 0, 0, seed*60, 0, seed, 200))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		all[int(in[0])%len(all)].try(t, parse(in[1:]))
	})
}
