package ntfs

import (
	"fmt"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// What is asked of a damaged image.
var stat, listDir, lookup, readlink, xattrs = fsystest.ProbeStat, fsystest.ProbeList, fsystest.ProbeLookup, fsystest.ProbeReadlink, fsystest.ProbeXattrs

// content reads all of a file.
func content(path string) fsystest.Probe { return fsystest.ProbeContent(path, 0) }

// warned requires that Info has a warning with that text.
func warned(text string) fsystest.Probe {
	return func(_, fs fsys.FS) error {
		if w := strings.Join(fs.Info().Warnings, "\n"); !strings.Contains(w, text) {
			return fmt.Errorf("warnings %q", w)
		}
		return nil
	}
}

// hostileMemory is what one case may allocate: the image has 3 MiB, and the metadata cache 8.
const hostileMemory = 64 << 20

// hostileCase is a fsystest.Damaged.
type hostileCase struct {
	name   string
	mutate func(h *hostile)
	probe  fsystest.Probe
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

// statAll asks for the attributes of all that a directory lists.
func statAll(path string) fsystest.Probe {
	return func(whole, fs fsys.FS) error {
		dir := must(fsystest.Find(whole, path))
		names, err := fsystest.ReadAll(fs, dir, 100)
		if err != nil {
			return fmt.Errorf("the listing itself: %w", err)
		}
		for _, d := range names {
			if ino, err := fs.Lookup(dir, d.Name); err != nil || ino != d.Ino {
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
func quiet(_, fs fsys.FS) error {
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
	fsystest.Damaged{
		Whole: h.fs, Open: func() (fsys.FS, error) { return Open(extent.Bytes(h.b), Options{}) },
		Ask: c.probe, Want: c.kind, Text: c.text, Object: c.object, Known: ofKnownKind, Survey: survey, Memory: hostileMemory,
		Good: true,
	}.Check(t)
}
