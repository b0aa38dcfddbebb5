package tree

import (
	"errors"
	"io"
	iofs "io/fs"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// forked is a file system whose files named "file" have streams; opening one of them panics.
type forked struct{ labelled }

func (f forked) Streams(i fsys.Ino) ([]fsys.Stream, error) {
	if a, err := f.Stat(i); err != nil || a.Size != 4 {
		return nil, err
	}
	return []fsys.Stream{{Name: "Zone.Identifier", Size: 3}, {Name: "bad", Size: 1}, {Name: "zone.identifier", Size: 5}}, nil
}

func (f forked) OpenStream(i fsys.Ino, name string) (extent.Reader, error) {
	switch name {
	case "bad":
		panic("by design")
	case "Zone.Identifier":
		return extent.Bytes([]byte("abc")), nil
	}
	return nil, iofs.ErrNotExist
}

func TestStreams(t *testing.T) {
	files := map[string]string{"file": "data", "link": "-> file", "a:b": "colon", "dir": "/", "dir:x": "/"}
	tr := newTree(t, stub{
		"ntfs": func() (fsys.FS, error) { return forked{labelled{guestFS(files), "", 0}}, nil },
		"ext":  fsOf("", "", files),
	}, Backup{Name: "b", Disks: []Disk{disk("n", "ntfs"), disk("e", "ext")}})
	for path, want := range map[string]string{
		"/backups/b/n/file:Zone.Identifier": "Zone.Identifier",
		"backups/b/n/file:zone.identifier":  "zone.identifier",
		"/backups/b/n/file:ZONE.identifier": "Zone.Identifier",
		"/backups/b/n/link:bad":             "bad",
		"/backups/b/n/file:none":            "",
		"/backups/b/n/file:":                "",
		"/backups/b/n/:bad":                 "",
		"/backups/b/n/file/:bad":            "",
		"/backups/b/n/dir:bad":              "",
		"/backups/b/n/none:bad":             "",
		"/backups/b/e/file:bad":             "",
		"/backups/b/n/file":                 "",
		"":                                  "",
		":":                                 "",
	} {
		n, name, err := tr.ResolveStream(t.Context(), path)
		if name != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", path, name, err, want)
		}
		if err != nil && KindOf(err) != KindNotFound {
			t.Errorf("%q: %v is %v", path, err, KindOf(err))
		}
		if direct, rerr := tr.Resolve("/backups/b/n/file", true); err == nil && (rerr != nil || direct != n) {
			t.Errorf("%q: node %v, want %v", path, n, direct)
		}
	}
	n, err := tr.Resolve("/backups/b/n/file", true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tr.OpenStream(n, "Zone.Identifier")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
	var p *PanicError
	if _, err := tr.OpenStream(n, "bad"); !errors.As(err, &p) {
		t.Errorf("a panic: %v", err)
	}
	if _, err := tr.OpenStream(tr.Root(), "x"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("of the tree's own folder: %v", err)
	}
	if s, err := tr.Streams(tr.Root()); err != nil || len(s) != 0 {
		t.Errorf("of the tree's own folder: %v, %v", s, err)
	}
	if s := tr.Stats(); s.Panics != 1 || s.Opens != 1 {
		t.Errorf("%+v", s)
	}
}
