package pull

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// Below is the part of a manifest that lies in a folder, by names relative to it.
func Below(m fsystest.Manifest, folder string) fsystest.Manifest {
	out := fsystest.Manifest{}
	for p, e := range m {
		if p == folder {
			out["."] = e
		} else if rel, ok := strings.CutPrefix(p, folder+"/"); ok {
			out[rel] = e
		}
	}
	return out
}

// Without is a manifest without some of its files.
func Without(m fsystest.Manifest, names ...string) fsystest.Manifest {
	out := fsystest.Manifest{}
	for p, e := range m {
		out[p] = e
	}
	for _, n := range names {
		delete(out, n)
	}
	return out
}

// Everything fails unless the directory holds all that was there: content, owners, modes, times to
// the nanosecond, links, devices, attributes, lists and capabilities.
func Everything(t testing.TB, want fsystest.Manifest, dir string) {
	t.Helper()
	if len(want) < 2 {
		t.Fatal("nothing is compared")
	}
	for _, d := range fsystest.Diff(portable(want), portable(fixture.Manifest(t, dir))) {
		t.Error(d)
	}
}

// portable strips what belongs to a file system and not to its files: inode numbers, times of
// access and of inodes, how much space anything takes, the sizes and links of folders. What the
// class trusted. holds only the machine's own root may see.
func portable(m fsystest.Manifest) fsystest.Manifest {
	out := fsystest.Manifest{}
	for p, e := range m {
		e.Ino, e.Atime, e.Ctime, e.Blocks, e.Data = 0, 0, 0, -1, nil
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size, e.Nlink = -1, 0
		}
		out[p] = e
	}
	return out
}

// Times says what a client keeps of a file's time.
type Times bool

// What clients keep.
const (
	Seconds Times = true
	NoTimes Times = false
)

// Content fails unless every regular file is in the directory, with its bytes and mode, and its
// time if that is kept.
func Content(t testing.TB, want fsystest.Manifest, dir string, times Times) {
	t.Helper()
	n := 0
	for _, p := range want.Paths() {
		e := want[p]
		if e.Mode&fsys.ModeFmt != fsys.ModeRegular {
			continue
		}
		n++
		path := filepath.Join(dir, p)
		st, err := os.Lstat(path)
		switch {
		case err != nil:
			t.Error(err)
		case !st.Mode().IsRegular() || st.Size() != e.Size || uint32(st.Mode().Perm()) != e.Mode&0o777:
			t.Errorf("%s is %s of %d bytes, want mode %o and %d", p, st.Mode(), st.Size(), e.Mode&0o777, e.Size)
		case times == Seconds && st.ModTime().Unix() != time.Unix(0, e.Mtime).Unix():
			t.Errorf("%s is of %s, want %s", p, st.ModTime().UTC(), time.Unix(0, e.Mtime).UTC())
		case fixture.Sum(t, path) != e.SHA256:
			t.Errorf("the content of %s is another", p)
		}
	}
	if n == 0 {
		t.Error("nothing was compared")
	}
}
