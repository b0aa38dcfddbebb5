package fsystest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// GoodContent is what the file "good" has, which engines' images for damage hold beside what is
// damaged: it must stay readable.
var GoodContent = bytes.Repeat([]byte("undamaged\n"), 300)

// CheckGood requires that the undamaged file still reads right.
func CheckGood(t testing.TB, whole, fs fsys.FS) {
	t.Helper()
	r, err := fs.Open(must(Find(whole, "good")))
	if err != nil {
		t.Errorf("the undamaged file: %v", err)
		return
	}
	b := make([]byte, r.Size())
	if _, err := extent.ReadFull(r, b, 0); err != nil || !bytes.Equal(b, GoodContent) {
		t.Errorf("the undamaged file reads as %d other bytes (%v)", len(b), err)
	}
}

// must is for questions to an undamaged image.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A Probe asks one question of a damaged file system; the whole one tells the inodes of paths.
type Probe func(whole, fs fsys.FS) error

// ProbeStat asks for an object's attributes.
func ProbeStat(path string) Probe {
	return func(whole, fs fsys.FS) error { _, err := fs.Stat(must(Find(whole, path))); return err }
}

// ProbeList lists a directory.
func ProbeList(path string) Probe {
	return func(whole, fs fsys.FS) error {
		_, err := ReadAll(fs, must(Find(whole, path)), 100)
		return err
	}
}

// ProbeLookup looks a name up, which must lead where the whole file system's path does.
func ProbeLookup(dir, name string) Probe {
	return func(whole, fs fsys.FS) error {
		ino, err := fs.Lookup(must(Find(whole, dir)), name)
		if err == nil && ino != must(Find(whole, dir+"/"+name)) {
			err = fmt.Errorf("inode %d", ino)
		}
		return err
	}
}

// ProbeReadlink reads a symbolic link.
func ProbeReadlink(path string) Probe {
	return func(whole, fs fsys.FS) error { _, err := fs.Readlink(must(Find(whole, path))); return err }
}

// ProbeXattrs asks for an object's extended attributes.
func ProbeXattrs(path string) Probe {
	return func(whole, fs fsys.FS) error {
		_, err := fs.(fsys.Xattrer).Xattrs(must(Find(whole, path)))
		return err
	}
}

// ProbeContent reads at most 4 MiB of a file from off on.
func ProbeContent(path string, off int64) Probe {
	return func(whole, fs fsys.FS) error {
		r, err := fs.Open(must(Find(whole, path)))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, io.NewSectionReader(r, off, min(r.Size()-off, 4<<20)))
		return err
	}
}

// What Damaged.Want may be besides kinds of package fsys.
var (
	ErrAny    = errors.New("any error of a known kind, or none")
	ErrAbsent = errors.New("that it does not exist")
)

// Damaged is a file system of which one structure was damaged, and what that must lead to.
type Damaged struct {
	Whole  fsys.FS                 // as it was before
	Open   func() (fsys.FS, error) // as it is now
	Ask    Probe                   // nil: Open is asked
	Want   error                   // the kind of the error; nil: there is none
	Text   string                  // in the error, with the inode of Object for %d
	Object string                  // a path

	Known  func(error) bool    // whether an error is of a kind that the engine may return
	Survey func(fsys.FS) error // reads everything: the errors must be known
	Good   bool                // whether CheckGood holds
	Memory uint64              // bytes that may be allocated for all of it, whatever was freed
}

// damageTime is how long all questions may keep processors busy: by the clock they take as long as the
// machine has something else to do.
const damageTime = 10 * time.Second

// busy is how long this process has kept processors busy.
func busy(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Check asks, and requires that the error is of the expected kind and names the object, that
// everything else still reads right, and that time and memory stay bounded.
func (d Damaged) Check(t *testing.T) {
	t.Helper()
	if strings.Contains(d.Text, "%d") {
		d.Text = fmt.Sprintf(d.Text, must(Find(d.Whole, d.Object)))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := busy(t)
	fs, err := d.Open()
	opened := err == nil
	if opened && d.Ask != nil {
		err = d.Ask(d.Whole, fs)
	}
	d.judge(t, err)
	if opened {
		if err := d.Survey(fs); err != nil && !d.Known(err) {
			t.Errorf("survey: %v", err)
		}
		if d.Good {
			CheckGood(t, d.Whole, fs)
		}
	}
	runtime.ReadMemStats(&after)
	if took := busy(t) - start; took > damageTime {
		t.Errorf("took %v of processors", took)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > d.Memory {
		t.Errorf("allocated %d MiB", n>>20)
	}
}

// judge compares an error with the one that is wanted.
func (d Damaged) judge(t *testing.T, err error) {
	t.Helper()
	switch {
	case d.Want == nil:
		if err != nil {
			t.Errorf("%v, want no error", err)
		}
	case errors.Is(d.Want, ErrAny):
		if err != nil && !d.Known(err) {
			t.Errorf("%v is of no kind", err)
		}
	case errors.Is(d.Want, ErrAbsent):
		if !errors.Is(err, iofs.ErrNotExist) || errors.Is(err, fsys.ErrCorrupt) || errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("%v, want %v", err, d.Want)
		}
	case !errors.Is(err, d.Want) || !strings.Contains(err.Error(), d.Text):
		t.Errorf("%v\nwant one of kind %q with %q", err, d.Want, d.Text)
	}
}

// OneOf tells whether an error is of one of these kinds.
func OneOf(kinds ...error) func(error) bool {
	return func(err error) bool {
		for _, k := range kinds {
			if errors.Is(err, k) {
				return true
			}
		}
		return false
	}
}
