package ntfs

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// A probe asks one question of a damaged image.
type probe func(h *hostile, fs *FS) error

func stat(path string) probe {
	return func(h *hostile, fs *FS) error { _, err := fs.Stat(h.ino(path)); return err }
}

func listDir(path string) probe {
	return func(h *hostile, fs *FS) error {
		_, err := fsystest.ReadAll(fs, h.ino(path), 100)
		return err
	}
}

func lookup(dir, name string) probe {
	return func(h *hostile, fs *FS) error {
		ino, err := fs.Lookup(h.ino(dir), name)
		if err == nil && ino != h.ino(dir+"/"+name) {
			err = fmt.Errorf("inode %d", ino)
		}
		return err
	}
}

func readlink(path string) probe {
	return func(h *hostile, fs *FS) error { _, err := fs.Readlink(h.ino(path)); return err }
}

func xattrs(path string) probe {
	return func(h *hostile, fs *FS) error { _, err := fs.Xattrs(h.ino(path)); return err }
}

// content reads all of a file.
func content(path string) probe {
	return func(h *hostile, fs *FS) error {
		r, err := fs.Open(h.ino(path))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(r.Size(), 4<<20)))
		return err
	}
}

// warned requires that Info has a warning with that text.
func warned(text string) probe {
	return func(_ *hostile, fs *FS) error {
		if w := strings.Join(fs.Info().Warnings, "\n"); !strings.Contains(w, text) {
			return fmt.Errorf("warnings %q", w)
		}
		return nil
	}
}

// Bounds of one case: the image has 3 MiB, and the metadata cache 8.
const (
	hostileTime   = 10 * time.Second
	hostileMemory = 64 << 20 // allocated in all, not at once
)

// hostileCase: what mutate does to the image must show up as an error of that kind with that text
// where probe asks; %d in text is the inode of object. probe nil: at Open. kind nil: it must
// not show up at all.
type hostileCase struct {
	name   string
	mutate func(h *hostile)
	probe  probe
	kind   error
	text   string
	object string
}

var corrupt = fsys.ErrCorrupt

// bootSector changes the boot sector and takes its backup away.
func bootSector(edit func(b []byte)) func(*hostile) {
	return func(h *hostile) {
		edit(h.b[:512])
		clear(h.b[len(h.b)-512:])
	}
}

func boot8(off int, v byte) func(*hostile) { return bootSector(func(b []byte) { b[off] = v }) }
func boot64(off int, v uint64) func(*hostile) {
	return bootSector(func(b []byte) { put64(b, off, v) })
}

// attrOf changes an attribute in a base record.
func attrOf(path string, typ uint32, edit func(b []byte)) func(*hostile) {
	return func(h *hostile) { h.attr(uint64(h.ino(path)), typ, "", edit) }
}

func rootOf(path string, edit func(b []byte)) func(*hostile) { // its value
	return func(h *hostile) {
		h.attr(uint64(h.ino(path)), typeIndexRoot, "$I30", func(b []byte) { edit(b[get16(b, 0x14):]) })
	}
}

// pairs changes the mapping pairs of a file's data.
func pairs(path string, edit func(b []byte)) func(*hostile) {
	return attrOf(path, typeData, func(b []byte) { edit(b[get16(b, 0x20):]) })
}

// listOf changes the attribute list of deep, which is resident or not.
func listOf(edit func(h *hostile, b []byte)) func(*hostile) {
	return func(h *hostile) {
		num := uint64(h.ino("deep"))
		a := must(h.object("deep").rec.find(typeList, nil))
		if a.resident {
			h.attr(num, typeList, "", func(b []byte) { edit(h, b[get16(b, 0x14):]) })
			return
		}
		lcn, _ := must(h.fs.decodeRuns(num, a)).at(0)
		edit(h, h.b[lcn*int64(h.fs.boot.cluster):])
	}
}

// dataEntry is the offset of the nth entry for data in an attribute list.
func dataEntry(b []byte, nth int) int {
	for off := 0; ; off += get16(b, off+4) {
		if get32(b, off) == typeData {
			if nth == 0 {
				return off
			}
			nth--
		}
	}
}

// extension is the number of the record that has the second piece of deep's data.
func extension(h *hostile) uint64 {
	k := 0
	for _, e := range h.object("deep").list {
		if e.typ == typeData {
			if k++; k == 2 {
				return e.ref.num()
			}
		}
	}
	panic("not in pieces")
}

// firstEntry changes the first entry of a leaf of big.
func firstEntry(edit func(b []byte)) func(*hostile) {
	return func(h *hostile) {
		h.block("big", h.leaf(), func(b []byte) { edit(b[0x18+get32(b, 0x18):]) })
	}
}

// unit is the place in the image of the first compressed unit.
func unit(h *hostile) []byte {
	p := must(h.fs.Open(h.ino("c/text"))).(*packed)
	_, place, err := p.Span(0, 1)
	if err != nil {
		panic(err)
	}
	return h.b[place:]
}

var errNotExist = errors.New("not there")

// statAll asks for the attributes of all that a directory lists.
func statAll(path string) probe {
	return func(h *hostile, fs *FS) error {
		names, err := fsystest.ReadAll(fs, h.ino(path), 100)
		if err != nil {
			return fmt.Errorf("the listing itself: %w", err)
		}
		for _, d := range names {
			if ino, err := fs.Lookup(h.ino(path), d.Name); err != nil || ino != d.Ino {
				return fmt.Errorf("%q is listed as %d and found as %d: %w", d.Name, d.Ino, ino, err)
			}
			if _, err := fs.Stat(d.Ino); err != nil {
				return err
			}
		}
		return nil
	}
}

// valueOf changes the resident value of an attribute.
func valueOf(path string, typ uint32, edit func(b []byte)) func(*hostile) {
	return attrOf(path, typ, func(b []byte) { edit(b[get16(b, 0x14):]) })
}

// logFile is $LogFile in the image.
func logFile(h *hostile) []byte {
	n := must(h.fs.object(logRecord))
	_, at, err := must(n.stream(must(n.find(typeData, nil)))).Span(0, 8192)
	if err != nil {
		panic(err)
	}
	return h.b[at:]
}

// restart writes the two restart pages of a log that is used as clients and flags say.
func restart(clients, flags uint16) func(*hostile) {
	return func(h *hostile) {
		for i := range 2 {
			p := logFile(h)[i*4096 : (i+1)*4096]
			clear(p)
			copy(p, restartMagic)
			put32(p, 0x10, 4096)
			put16(p, 0x18, 0x30)
			put64(p, 0x30, uint64(100+i))
			put16(p, 0x3C, clients)
			put16(p, 0x3E, flags)
			if i == 0 { // the older one says the opposite
				put16(p, 0x3C, ^clients)
				put16(p, 0x3E, 0)
			}
		}
	}
}

// quiet requires that there is no warning.
func quiet(_ *hostile, fs *FS) error {
	if i := fs.Info(); len(i.Warnings) > 0 || i.Journal != "clean" {
		return fmt.Errorf("%q, %q", i.Journal, i.Warnings)
	}
	return nil
}

// TestHostile damages one structure at a time: the error is of the expected kind and names the
// object, everything else still reads right, and time and memory stay bounded.
func TestHostile(t *testing.T) {
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c hostileCase) run(t *testing.T) {
	h := newHostile(t)
	c.mutate(h)
	text := c.text
	if strings.Contains(text, "%d") {
		text = fmt.Sprintf(text, h.ino(c.object))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()

	fs, err := Open(extent.Bytes(h.b), Options{})
	opened := err == nil
	if c.probe != nil && err == nil {
		err = c.probe(h, fs)
	}
	switch {
	case c.kind == nil && err != nil:
		t.Errorf("%v, want no error", err)
	case c.kind == errNotExist:
		if !ofKnownKind(err) || errors.Is(err, corrupt) || errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("%v, want that it does not exist", err)
		}
	case c.kind != nil && (!errors.Is(err, c.kind) || !strings.Contains(err.Error(), text)):
		t.Errorf("%v\nwant one of kind %q with %q", err, c.kind, text)
	}
	if opened {
		if err := survey(fs); err != nil && !ofKnownKind(err) {
			t.Errorf("survey: %v", err)
		}
		h.checkGood(t, fs)
	}
	runtime.ReadMemStats(&after)
	if d := time.Since(start); d > hostileTime {
		t.Errorf("took %v", d)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > hostileMemory {
		t.Errorf("allocated %d MiB", n>>20)
	}
}
