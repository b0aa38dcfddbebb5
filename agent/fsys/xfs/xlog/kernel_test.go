package xlog_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

// churn changes a tree in every way that a log records, with a sync in the middle.
func churn(seed uint64, steps int) func(dir string) error {
	return func(dir string) error { return fixture.Churn(dir, seed, steps, nil) }
}

// rounds makes and removes directories and files, so that chunks of inodes are made and freed, and
// the log goes round several times where it is small.
func rounds(n int) func(dir string) error {
	return func(dir string) error {
		for round := range n {
			sub := filepath.Join(dir, fmt.Sprint("round", round))
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
			for i := range 200 {
				f, err := os.Create(filepath.Join(sub, fmt.Sprint(i)))
				if err != nil {
					return err
				}
				if i%10 == 0 { // a checkpoint each
					err = f.Sync()
				}
				if err := errors.Join(err, f.Close()); err != nil {
					return err
				}
			}
			if round%3 != 1 {
				if err := os.RemoveAll(sub); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

var variants = []struct {
	name  string
	mkfs  []string
	flush bool
	load  func(dir string) error
}{
	{"4k", nil, true, churn(1, 500)},
	{"4k without flush", nil, false, churn(2, 500)},
	{"1k", []string{"-b", "size=1k"}, true, churn(3, 500)},
	{"512", []string{"-b", "size=1k", "-i", "size=512", "-n", "size=4k"}, true, churn(4, 400)},
	{"rmapbt", []string{"-m", "rmapbt=1"}, true, churn(5, 500)},
	{"inodes of 2048 bytes", []string{"-i", "size=2048"}, true, churn(6, 400)},
	{"sectors of 4k", []string{"-s", "size=4096"}, true, churn(7, 400)},
	{"stripe unit 64k", []string{"-l", "su=64k"}, true, churn(8, 400)},
	{"stripe unit 256k", []string{"-l", "su=256k"}, true, churn(9, 400)},
	{"large counters", []string{"-i", "nrext64=1"}, true, churn(10, 400)},
	{"without sparse inodes and reflink", []string{"-i", "sparse=0", "-m", "reflink=0,finobt=0,bigtime=0"}, true, churn(11, 400)},
	{"wrapped", nil, true, rounds(33)},
	{"wrapped 1k", []string{"-b", "size=1k"}, false, rounds(26)},
}

// TestAgainstKernel compares every sector of the replayed device with what the kernel makes of it.
func TestAgainstKernel(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			m := dirtyImage(t, 40<<20, v.mkfs, v.flush, v.load)
			if v.name == "wrapped" {
				m = wrapped(t, m)
			}
			kernel, ok := kernelReplay(t, m)
			if !ok {
				t.Fatal("the kernel does not mount it")
			}
			ours, report, err := m.replay()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s; %d intents, %d skipped, %d cancelled", report, report.Intents, report.Skipped, report.Cancelled)
			if !report.Dirty || report.Inodes == 0 || report.Buffers == 0 {
				t.Errorf("%s: too little for this test", report)
			}
			if at := difference(t, m, kernel, ours, report); at >= 0 {
				t.Errorf("the sector at byte %d (block %d) differs from the kernel's", at, at/int(m.g.BlockSize))
			}
			if difference(t, m, kernel, extent.Bytes(m.b), report) < 0 {
				t.Error("nothing differs without the replay: this test shows nothing")
			}
		})
	}
}

// wrapped returns m if its log's records lie round the end, or else another image whose log does:
// how much of a log a load takes is up to the kernel, so several lengths are tried.
func wrapped(t *testing.T, m *image) *image {
	t.Helper()
	for n := 22; ; n++ {
		records := findRecords(m)
		if records[0] > records[len(records)-1] {
			return m
		}
		if n > 60 {
			t.Fatalf("the log's %d records lie between blocks %d and %d of %d, not round its end: this test shows too little",
				len(records), records[0], records[len(records)-1], m.logSize/basicBlock)
		}
		m = dirtyImage(t, 40<<20, nil, true, rounds(n))
	}
}

// TestChangedUUID: blocks of metadata keep the first UUID of a file system, records of the log have
// the current one.
func TestChangedUUID(t *testing.T) {
	fixture.Need(t, "xfs_admin")
	m := dirtyImage(t, 24<<20, nil, true, churn(13, 200), []string{"xfs_admin", "-U", "generate"})
	if m.g.UUID == m.g.MetaUUID {
		t.Fatal("the UUID has not changed")
	}
	kernel, ok := kernelReplay(t, m)
	if !ok {
		t.Fatal("the kernel does not mount it")
	}
	ours, report, err := m.replay()
	if err != nil {
		t.Fatal(err)
	}
	if at := difference(t, m, kernel, ours, report); at >= 0 {
		t.Errorf("the sector at byte %d differs from the kernel's", at)
	}
}

// TestDamagedAgainstKernel damages the log at random. Where the kernel replays what is left we
// must do exactly the same, and where it refuses so must we.
func TestDamagedAgainstKernel(t *testing.T) {
	const damages = 12 // of each variant; more by VMFR_XLOG_DAMAGES
	n := damages
	if s := os.Getenv("VMFR_XLOG_DAMAGES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range variants {
		switch v.name {
		case "4k", "1k", "stripe unit 64k", "wrapped":
		default:
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			base := dirtyImage(t, 24<<20, v.mkfs, v.flush, v.load)
			records := findRecords(base)
			replayed, torn, refused := 0, 0, 0
			for seed := range n {
				rng := rand.New(rand.NewPCG(uint64(seed), 3))
				m := base.clone()
				what := damage(m, rng, records)
				kernel, ok := kernelReplay(t, m)
				ours, report, err := m.replay()
				switch {
				case err != nil && !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, fsys.ErrUnsupported):
					t.Errorf("seed %d: %s: %v is of no kind", seed, what, err)
				case ok && err != nil:
					t.Errorf("seed %d: %s: the kernel mounts it, we say %v", seed, what, err)
				case !ok && err == nil:
					t.Errorf("seed %d: %s: the kernel refuses it, we have %+v", seed, what, report)
				case ok:
					replayed++
					if report.Torn {
						torn++
					}
					if at := difference(t, m, kernel, ours, report); at >= 0 {
						t.Errorf("seed %d: %s: the sector at byte %d differs from the kernel's (%+v)", seed, what, at, report)
					}
				default:
					refused++
				}
			}
			t.Logf("%d records; %d replayed, %d of them torn, %d refused", len(records), replayed, torn, refused)
			if n >= damages && (torn == 0 || refused == 0) {
				t.Error("some kinds of damage never happened: this test shows too little")
			}
		})
	}
}

// findRecords lists the blocks of the record headers of the active log, the newest last.
func findRecords(m *image) []int {
	log := m.log()
	be := binary.BigEndian
	newest := -1
	lsn := func(i int) uint64 { return be.Uint64(log[i*basicBlock+16:]) }
	all := []int{}
	for i := range len(log) / basicBlock {
		if be.Uint32(log[i*basicBlock:]) == 0xFEEDBABE && be.Uint32(log[i*basicBlock+12:]) > 0 && uint32(lsn(i)) == uint32(i) {
			all = append(all, i)
			if newest < 0 || lsn(i) > lsn(newest) {
				newest = i
			}
		}
	}
	tail := be.Uint64(log[newest*basicBlock+24:])
	var out []int
	for _, i := range all {
		if lsn(i) >= tail {
			out = append(out, i)
		}
	}
	// In the order of their LSNs: those after the newest on the ring are older.
	for len(out) > 0 && out[len(out)-1] != newest {
		out = append([]int{out[len(out)-1]}, out[:len(out)-1]...)
	}
	return out
}

// damage changes the log and says how. Nearly everything happens to the newest records, which
// may have been torn by the crash; the rest must be refused.
func damage(m *image, rng *rand.Rand, records []int) string {
	log := m.log()
	n := len(records) - 1 - rng.IntN(min(len(records), 12))
	if rng.IntN(4) == 0 {
		n = rng.IntN(len(records))
	}
	blk := records[n]
	be := binary.BigEndian
	headers := 1 + (int(be.Uint32(log[blk*basicBlock+320:]))-1)/(32<<10)
	length := headers + (int(be.Uint32(log[blk*basicBlock+12:]))+basicBlock-1)/basicBlock
	where := fmt.Sprintf("record %d of %d (block %d, %d blocks)", n, len(records), blk, length)
	sector := func(i int) []byte {
		i = (blk + i) % (len(log) / basicBlock)
		return log[i*basicBlock : (i+1)*basicBlock]
	}
	switch rng.IntN(8) {
	case 0:
		i := rng.IntN(length)
		clear(sector(i))
		return fmt.Sprintf("%s: sector %d zeroed", where, i)
	case 1:
		at := rng.IntN(328)
		sector(0)[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("%s: header byte %d changed", where, at)
	case 2:
		i, at := rng.IntN(length), rng.IntN(basicBlock)
		sector(i)[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("%s: byte %d of sector %d changed", where, at, i)
	case 3: // the write ended early: the rest of the record, and all after it, is of the round before
		from := rng.IntN(length)
		for i := from; i < length; i++ {
			old(sector(i), rng)
		}
		for _, blk = range records[n+1:] {
			old(sector(0), rng)
		}
		return fmt.Sprintf("%s: cut at sector %d, and the next %d records", where, from, len(records)-n-1)
	case 4:
		i := rng.IntN(length)
		old(sector(i), rng)
		return fmt.Sprintf("%s: sector %d is of the round before", where, i)
	case 5:
		other := records[rng.IntN(len(records))]
		copy(sector(0), log[other*basicBlock:(other+1)*basicBlock])
		return fmt.Sprintf("%s: header of block %d", where, other)
	case 6:
		be.PutUint32(sector(0)[12:], be.Uint32(sector(0)[12:])+uint32(basicBlock*(rng.IntN(8)-4)))
		return fmt.Sprintf("%s: length %d", where, be.Uint32(sector(0)[12:]))
	default:
		for i := length / 2; i < length; i++ {
			clear(sector(i)[4:])
		}
		return fmt.Sprintf("%s: second half has only cycle numbers", where)
	}
}

// old makes a sector one that the last round did not reach.
func old(b []byte, rng *rand.Rand) {
	be := binary.BigEndian
	cycle := be.Uint32(b)
	if cycle == 0xFEEDBABE {
		cycle = be.Uint32(b[4:])
	}
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	be.PutUint32(b, cycle-1)
}
