package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

var le = binary.LittleEndian

// sample is a small image of each variant, made by mkfs.vfat and mtools once for all tests.
var samples sync.Map

// sample returns a copy of the image: /A.TXT of three clusters, "/Long file name.txt", /DIR with
// /DIR/SUB with /DIR/SUB/LEAF of one cluster; clusters have 512 bytes.
func sample(t testing.TB, bits int) []byte {
	t.Helper()
	if b, ok := samples.Load(bits); ok {
		return bytes.Clone(b.([]byte))
	}
	size := map[int]int64{12: 256 << 10, 16: 4400 << 10, 32: 36 * mib}[bits]
	img := mkfs(t, size, "-F", fmt.Sprint(bits), "-s", "1", "-i", "12345678", "-n", "SAMPLE")
	dir := t.TempDir()
	put := func(name string, n int) {
		p := filepath.Join(dir, "x")
		if err := os.WriteFile(p, bytes.Repeat([]byte{'x'}, n), 0o600); err != nil {
			t.Fatal(err)
		}
		mtool(t, img, "mcopy", p, "z:/"+name)
	}
	put("A.TXT", 3*512)
	put("Long file name.txt", 100)
	mtool(t, img, "mmd", "z:/DIR", "z:/DIR/SUB")
	put("DIR/SUB/LEAF", 10)
	check(t, img)
	b := load(t, img)
	samples.Store(bits, bytes.Clone(b))
	return b
}

// victim is an image to damage.
type victim struct {
	t    testing.TB
	b    []byte
	good *FS
}

func newVictim(t testing.TB, bits int) *victim {
	b := sample(t, bits)
	return &victim{t, b, openBytes(t, bytes.Clone(b))}
}

// entry is the place of an object's directory entry.
func (v *victim) entry(path string) int64 {
	return int64(must(fsystest.Find(v.good, path))) * entrySize
}

// first is an object's first cluster, and at its place.
func (v *victim) first(path string) uint32 {
	return must(v.good.entryAt(must(fsystest.Find(v.good, path)))).cluster
}

func (v *victim) at(path string) int64 { return v.good.geo.at(v.first(path)) }

// link sets a table entry.
func (v *victim) link(c, next uint32) {
	g := v.good.geo
	switch g.bits {
	case 32:
		le.PutUint32(v.b[g.fat+4*int64(c):], next)
	case 16:
		le.PutUint16(v.b[g.fat+2*int64(c):], uint16(next))
	default:
		at := g.fat + int64(c) + int64(c)/2
		old := le.Uint16(v.b[at:])
		if c&1 == 1 {
			le.PutUint16(v.b[at:], old&0xf|uint16(next)<<4)
		} else {
			le.PutUint16(v.b[at:], old&0xf000|uint16(next)&0xfff)
		}
	}
}

// survey walks and reads everything and returns the errors; it fails where there are too many
// objects or errors of no kind.
func survey(t testing.TB, f *FS) (paths int, errs []error) {
	t.Helper()
	_ = f.Info()
	type item struct {
		path string
		ino  fsys.Ino
	}
	todo := []item{{".", f.Root()}}
	note := func(err error) {
		if err != nil {
			if !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, iofs.ErrNotExist) {
				t.Fatalf("an error of no kind: %v", err)
			}
			errs = append(errs, err)
		}
	}
	buf := make([]byte, 64<<10)
	for ; len(todo) > 0; paths++ {
		if paths > 100000 {
			t.Fatal("the walk does not end")
		}
		it := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		a, err := f.Stat(it.ino)
		if note(err); err != nil {
			continue
		}
		if a.IsDir() {
			ents, err := fsystest.ReadAll(f, it.ino, 7)
			note(err)
			for _, e := range ents {
				if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
					t.Fatalf("%s has an entry %q", it.path, e.Name)
				}
				todo = append(todo, item{it.path + "/" + e.Name, e.Ino})
				if _, err := f.Lookup(it.ino, e.Name); err != nil {
					t.Fatalf("%s/%q is listed and not found: %v", it.path, e.Name, err)
				}
			}
			continue
		}
		r, err := f.Open(it.ino)
		if note(err); err != nil {
			continue
		}
		for off := int64(0); off < r.Size() && off < 1<<20; {
			n, err := r.ReadAt(buf, off)
			if err != nil && err != io.EOF {
				note(err)
				break
			}
			off += int64(n)
		}
		if r.Size() > 0 {
			_, err = r.Extent(r.Size()/2, 1<<40)
			note(err)
		}
	}
	return paths, errs
}

func TestHostileBootSector(t *testing.T) {
	put16 := func(at int, n uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], n) } }
	put32 := func(at int, n uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], n) } }
	put8 := func(at int, n byte) func([]byte) { return func(b []byte) { b[at] = n } }
	for _, c := range []struct {
		name   string
		bits   int
		change func([]byte)
		want   error // nil: opens
	}{
		{"no 55AA", 12, put16(510, 0), nil},
		{"other jump and name", 16, func(b []byte) { copy(b, "LINUX-IS-HERE"[:11]) }, nil},
		{"sectors of 0", 12, put16(11, 0), fsys.ErrNotRecognized},
		{"sectors of 513", 12, put16(11, 513), fsys.ErrNotRecognized},
		{"sectors of 8192", 12, put16(11, 8192), fsys.ErrNotRecognized},
		{"clusters of 0", 12, put8(13, 0), fsys.ErrNotRecognized},
		{"clusters of 3", 16, put8(13, 3), fsys.ErrNotRecognized},
		{"no reserved sectors", 12, put16(14, 0), fsys.ErrNotRecognized},
		{"no FAT", 12, put8(16, 0), fsys.ErrNotRecognized},
		{"bad media", 12, put8(21, 0x12), fsys.ErrNotRecognized},
		{"no sectors", 12, func(b []byte) { put16(19, 0)(b); put32(32, 0)(b) }, fsys.ErrNotRecognized},
		{"no size of the FAT", 12, put16(22, 0), nil}, // replaced below: what FAT32's fields say
		{"no root directory", 12, put16(17, 0), fsys.ErrCorrupt},
		{"root directory of a fraction", 12, put16(17, 7), fsys.ErrCorrupt},
		{"root directory larger than the volume", 12, put16(17, 65520), fsys.ErrCorrupt},
		{"FATs larger than the volume", 12, put16(22, 65535), fsys.ErrCorrupt},
		{"reserved sectors behind the end", 12, put16(14, 65535), fsys.ErrCorrupt},
		{"too many clusters", 12, func(b []byte) { put16(19, 0)(b); put32(32, 1<<31)(b) }, nil}, // the FAT's size limits them
		{"FAT16 with a FAT for FAT32", 16, func(b []byte) { put16(22, 65535)(b); put16(19, 0)(b); put32(32, 1<<28)(b) }, fsys.ErrCorrupt},
		{"version 1", 32, put16(42, 1), fsys.ErrUnsupported},
		{"root cluster 0", 32, put32(44, 0), fsys.ErrCorrupt},
		{"root cluster outside", 32, put32(44, 1<<28), fsys.ErrCorrupt},
		{"active FAT 9", 32, put16(40, 0x89), fsys.ErrCorrupt},
		{"active FAT 1", 32, put16(40, 0x81), nil},
		{"FSInfo outside", 32, put16(48, 60000), nil},
		{"huge clusters", 32, func(b []byte) { put16(11, 4096)(b); put8(13, 128)(b) }, fsys.ErrCorrupt},
		{"NTFS", 16, func(b []byte) { copy(b[3:], "NTFS    "); b[16] = 0; put16(14, 0)(b) }, fsys.ErrNotRecognized},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := sample(t, c.bits)
			c.change(b)
			if c.bits == 32 {
				clear(b[6*512 : 7*512]) // no backup
			}
			f, err := Open(extent.Bytes(b), Options{})
			if c.name == "no size of the FAT" {
				if err == nil {
					survey(t, f)
				}
				return
			}
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err == nil {
				survey(t, f)
			}
		})
	}
}

func TestBackupBootSector(t *testing.T) {
	b := sample(t, 32)
	clear(b[:512])
	f := openBytes(t, b)
	if w := strings.Join(f.Info().Warnings, " "); !strings.Contains(w, "its backup is used") {
		t.Errorf("warnings %q", w)
	}
	if _, errs := survey(t, f); len(errs) > 0 {
		t.Error(errs)
	}
	for name, spoil := range map[string]func([]byte){
		"XFS there":  func(b []byte) { copy(b, "XFSB") },
		"ext4 there": func(b []byte) { copy(b[1080:], "\x53\xef") },
		"swap there": func(b []byte) { copy(b[4086:], "SWAPSPACE2") },
		"other FAT":  func(b []byte) { b[32*512] = 0 },
		"no backup":  func(b []byte) { clear(b[6*512 : 7*512]) },
	} {
		c := bytes.Clone(b)
		spoil(c)
		if _, err := Open(extent.Bytes(c), Options{}); !errors.Is(err, fsys.ErrNotRecognized) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostile damages tables and directories. Each case says what the walk must report, and
// whether the other objects are still there.
func TestHostile(t *testing.T) {
	cluster := func(v *victim, path string, c uint32) {
		at := v.entry(path)
		le.PutUint16(v.b[at+26:], uint16(c))
		le.PutUint16(v.b[at+20:], uint16(c>>16))
	}
	end := func(v *victim) uint32 { return v.good.table.top() + 7 }
	for _, c := range []struct {
		name   string
		change func(*victim)
		says   string // "": no error
		paths  int    // of 6 with the root
	}{
		{"nothing", func(*victim) {}, "", 6},
		{"chain too short", func(v *victim) { v.link(v.first("A.TXT"), end(v)) }, "ends after 1 of 3 clusters", 6},
		{"chain too long", func(v *victim) { v.link(v.first("A.TXT")+2, 200); v.link(200, end(v)) }, "", 6},
		{"chain into itself", func(v *victim) { v.link(v.first("A.TXT")+1, v.first("A.TXT")) }, "meets itself", 6},
		{"chain of one into itself", func(v *victim) { v.link(v.first("A.TXT"), v.first("A.TXT")) }, "meets itself", 6},
		{"loop behind the size", func(v *victim) { v.link(v.first("A.TXT")+2, v.first("A.TXT")+2) }, "meets itself", 6},
		{"free cluster", func(v *victim) { v.link(v.first("A.TXT"), 0) }, "free", 6},
		{"bad cluster", func(v *victim) { v.link(v.first("A.TXT"), v.good.table.top()-1) }, "marked as bad", 6},
		{"reserved cluster", func(v *victim) { v.link(v.first("A.TXT"), v.good.table.top()-3) }, "number", 6},
		{"cluster 1", func(v *victim) { v.link(v.first("A.TXT"), 1) }, "should be number 1", 6},
		{"cluster outside", func(v *victim) { v.link(v.first("A.TXT"), v.good.geo.clusters+2) }, "should be number", 6},
		{"no first cluster", func(v *victim) { cluster(v, "A.TXT", 0) }, "should be number 0", 6},
		{"first cluster outside", func(v *victim) { cluster(v, "A.TXT", v.good.geo.clusters+2) }, "should be number", 6},
		{"size of 4 GiB", func(v *victim) { le.PutUint32(v.b[v.entry("A.TXT")+28:], 0xffffffff) }, "ends after 3", 6},
		{"cross-linked file", func(v *victim) { cluster(v, "Long file name.txt", v.first("A.TXT")) }, "", 6},
		{"file in a directory's cluster", func(v *victim) { cluster(v, "Long file name.txt", v.first("DIR")) }, "", 6},
		{"directory into its parent", func(v *victim) { cluster(v, "DIR/SUB", v.first("DIR")) }, "leads elsewhere", 4},
		{"directory into itself, parents agreeing", func(v *victim) {
			cluster(v, "DIR/SUB", v.first("DIR"))
			le.PutUint16(v.b[v.at("DIR")+32+26:], uint16(v.first("DIR")))
		}, "leads elsewhere", 3},
		{"directory into the root", func(v *victim) { cluster(v, "DIR/SUB", v.good.geo.rootStart) }, "left out", 4},
		{"directory at cluster 0", func(v *victim) { cluster(v, "DIR", 0) }, "left out", 3},
		{"directory outside", func(v *victim) { cluster(v, "DIR", 0x0ffffff0) }, "left out", 3},
		{"directory chain into itself", func(v *victim) { v.link(v.first("DIR"), v.first("DIR")); v.fill("DIR") }, "meets itself", 4},
		{"directory chain into a free cluster", func(v *victim) { v.link(v.first("DIR"), 0); v.fill("DIR") }, "free", 19},
		{"directory with a free cluster behind its end", func(v *victim) { v.link(v.first("DIR"), 0) }, "", 6},
		{"two entries for one directory", func(v *victim) {
			at := v.entry("DIR")
			copy(v.b[at+32:], v.b[at:at+32])
			v.b[at+32] = 'E'
		}, "another entry", 6},
		{"no dots", func(v *victim) { clear(v.b[v.at("DIR/SUB") : v.at("DIR/SUB")+64]) }, `".."`, 4},
		{"a file for a directory", func(v *victim) { v.b[v.entry("A.TXT")+11] |= attrDir }, `".."`, 5},
		{"a directory for a file", func(v *victim) { v.b[v.entry("DIR")+11] &^= attrDir }, "", 4},
		{"slash in a short name", func(v *victim) { v.b[v.entry("A.TXT")] = '/' }, "an entry is called", 5},
		{"zero in a short name", func(v *victim) { v.b[v.entry("A.TXT")+1] = 0; v.b[v.entry("A.TXT")+2] = 'x' }, "an entry is called", 5},
		{"long name of another entry", func(v *victim) { v.b[v.entry("Long file name.txt")] ^= 1 }, "", 6},
		{"long name with a slash", func(v *victim) { v.b[v.entry("Long file name.txt")-32+1] = '/' }, "", 6},
		{"long name without its end", func(v *victim) { v.b[v.entry("Long file name.txt")-64] = markDeleted }, "", 6},
		{"long name out of order", func(v *victim) { v.b[v.entry("Long file name.txt")-32] = 5 }, "", 6},
		{"long name of 31 pieces", func(v *victim) { v.b[v.entry("Long file name.txt")-64] = 0x5f }, "", 6},
		{"end in the middle", func(v *victim) { v.b[v.entry("DIR/SUB")] = 0 }, "", 4},
		{"volume label for a file", func(v *victim) { v.b[v.entry("A.TXT")+11] = attrVolume }, "", 5},
	} {
		for _, bits := range []int{12, 16, 32} {
			t.Run(fmt.Sprintf("%s/%d", c.name, bits), func(t *testing.T) {
				if bits != 32 && c.name == "directory into the root" {
					t.Skip("the root has no cluster")
				}
				v := newVictim(t, bits)
				c.change(v)
				f, err := Open(extent.Bytes(v.b), Options{})
				if err != nil {
					t.Fatal(err)
				}
				paths, errs := survey(t, f)
				if paths != c.paths || (len(errs) > 0) != (c.says != "") || c.says != "" && !strings.Contains(fmt.Sprint(errs), c.says) {
					t.Errorf("%d objects of %d: %v, want %q", paths, c.paths, errs, c.says)
				}
			})
		}
	}
}

// fill puts small files into the rest of a directory's first cluster, so that it has no end.
func (v *victim) fill(path string) {
	at := v.at(path)
	for i := 3; i < 16; i++ {
		e := v.b[at+int64(i)*32:]
		clear(e[:32])
		copy(e, fmt.Sprintf("F%-10d", i))
	}
}

// TestUnclean: the marks of a guest that was running or saw errors.
func TestUnclean(t *testing.T) {
	for _, bits := range []int{16, 32} {
		v := newVictim(t, bits)
		if w := v.good.Info().Warnings; len(w) > 0 {
			t.Errorf("clean: %q", w)
		}
		width := int64(bits / 8)
		v.b[v.good.geo.fat+2*width-1] &^= map[int]byte{16: 0x80, 32: 0x08}[bits]
		if w := fmt.Sprint(openBytes(t, v.b).Info().Warnings); !strings.Contains(w, "in use") {
			t.Errorf("FAT%d: %s", bits, w)
		}
		v = newVictim(t, bits)
		v.b[map[int]int{16: 37, 32: 65}[bits]] |= stateDirty
		if w := fmt.Sprint(openBytes(t, v.b).Info().Warnings); !strings.Contains(w, "in use") {
			t.Errorf("FAT%d: %s", bits, w)
		}
		v.b[v.good.geo.fat+2*width-1] &^= map[int]byte{16: 0x40, 32: 0x04}[bits]
		if w := fmt.Sprint(openBytes(t, v.b).Info().Warnings); !strings.Contains(w, "I/O errors") {
			t.Errorf("FAT%d: %s", bits, w)
		}
	}
}

// TestTruncated: a device that ends anywhere gives errors of a known kind.
func TestTruncated(t *testing.T) {
	b := sample(t, 12)
	for n := 0; n < len(b); n += 256 {
		f, err := Open(extent.Bytes(b[:n]), Options{})
		if err != nil {
			if n > 20000 {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		}
		survey(t, f)
	}
}

// FuzzImage changes bytes of an image, opens it, walks it and reads everything. The input is the
// choice of the image and records: place (2 bytes, of those that hold anything) and value.
func FuzzImage(f *testing.F) {
	type base struct {
		b   []byte
		hot []int
	}
	var bases []base
	for _, bits := range []int{12, 16} {
		b := base{b: sample(f, bits)}
		for at := 0; at < len(b.b); at += 32 {
			if len(bytes.Trim(b.b[at:at+32], "\x00")) > 0 {
				b.hot = append(b.hot, at)
			}
		}
		bases = append(bases, b)
	}
	for i := range bases {
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i), 20, 0, 3, 12, 0, 1, 17})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		img := bases[int(in[0])%len(bases)]
		b := img.b
		type change struct {
			at  int
			old byte
		}
		var undo []change
		for rec := in[1:min(len(in), 1+4*64)]; len(rec) >= 4; rec = rec[4:] {
			at := img.hot[int(le.Uint16(rec))%len(img.hot)] + int(rec[2])%32
			undo = append(undo, change{at, b[at]})
			b[at] = rec[3]
		}
		defer func() {
			for i := len(undo) - 1; i >= 0; i-- {
				b[undo[i].at] = undo[i].old
			}
		}()
		fs, err := Open(extent.Bytes(b), Options{CacheBytes: 256 << 10})
		if err == nil {
			survey(t, fs)
		}
	})
}
