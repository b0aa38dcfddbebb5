package xfs

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

func listing(path string) probe {
	return func(h *hostile, fs *FS) error {
		_, err := fsystest.ReadAll(fs, h.ino(path), 100)
		return err
	}
}

// lookup finds the name that is number n of those that fillBase makes.
func lookup(dir string, n int) probe {
	return func(h *hostile, fs *FS) error {
		name := fmt.Sprintf("name %03d %s", n, strings.Repeat("n", 20))
		ino, err := fs.Lookup(h.ino(dir), name)
		if err == nil && ino != h.ino("good") {
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

// content reads at most 1 MiB of a file from off on.
func content(path string, off int64) probe {
	return func(h *hostile, fs *FS) error {
		r, err := fs.Open(h.ino(path))
		if err != nil {
			return err
		}
		n, err := r.ReadAt(make([]byte, 1<<20), off)
		if err == io.EOF && n > 0 {
			err = nil
		}
		return err
	}
}

// Bounds of one case: the image has 16 MiB, and the metadata cache 8.
const (
	hostileTime   = 10 * time.Second
	hostileMemory = 64 << 20 // allocated in all, not at once
)

// hostileCase: what mutate does to an image must show up as an error of that kind with that text
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

// TestHostile damages one structure at a time, with its checksum made right where that is not the
// damage: the error is of the expected kind and names the object, everything else still reads
// right, and time and memory stay bounded.
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
		if c.name != "file in the inode" {
			h.checkGood(t, fs)
		}
	}
	runtime.ReadMemStats(&after)
	if d := time.Since(start); d > hostileTime {
		t.Errorf("took %v", d)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > hostileMemory {
		t.Errorf("allocated %d MiB", n>>20)
	}
}
