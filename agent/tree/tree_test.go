package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// list returns all paths below dir, without following links, and checks each entry on the way:
// its ID is unique unless it is the same object, inverts, and agrees with Lookup.
func list(t *testing.T, tr *Tree) []string {
	t.Helper()
	var out []string
	seen := map[uint64]string{}
	todo := []struct {
		path string
		n    Node
	}{{"", tr.Root()}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		buf := make([]fsys.Dirent, 2)
		for from, err := fsys.Cookie(0), error(nil); err != io.EOF; {
			var k int
			if k, err = tr.ReadDir(d.n, from, buf); err != nil && err != io.EOF {
				t.Fatalf("list %q: %v", d.path, err)
			}
			for _, e := range buf[:k] {
				from = e.Next
				p := d.path + "/" + e.Name
				n, lerr := tr.Lookup(d.n, e.Name)
				if lerr != nil || tr.ID(n) != uint64(e.Ino) {
					t.Errorf("%q: lookup gives %d (%v), listing %d", p, tr.ID(n), lerr, e.Ino)
				}
				if back, ok := tr.ByID(uint64(e.Ino)); !ok || back != n {
					t.Errorf("%q: ID %d leads to %v, want %v", p, e.Ino, back, n)
				}
				if other, ok := seen[uint64(e.Ino)]; ok {
					t.Errorf("%q and %q share ID %d", p, other, e.Ino)
				}
				seen[uint64(e.Ino)] = p
				a, aerr := tr.Attr(n)
				if aerr != nil || uint64(a.Ino) != uint64(e.Ino) || a.Mode&fsys.ModeFmt != e.Type {
					t.Errorf("%q: attributes %+v (%v) do not agree with the entry %+v", p, a, aerr, e)
				}
				if a.IsDir() {
					todo = append(todo, struct {
						path string
						n    Node
					}{p, n})
					p += "/"
				}
				out = append(out, p)
			}
		}
	}
	return out
}

func has(paths []string, p string) bool {
	for _, x := range paths {
		if x == p {
			return true
		}
	}
	return false
}

func TestLayout(t *testing.T) {
	system := map[string]string{"etc/os-release": "ID=debian", "etc/fstab": ""}
	engines := stub{
		"system": func() (fsys.FS, error) { return labelled{guestFS(system), "rootfs", 0}, nil },
		"data":   func() (fsys.FS, error) { return labelled{guestFS(map[string]string{"d": "data"}), "data", 0}, nil },
		"hostile": func() (fsys.FS, error) {
			return labelled{guestFS(map[string]string{"h": "x"}), "../../etc", 1 << 60}, nil
		},
		"corrupt": func() (fsys.FS, error) {
			return nil, fsys.Corrupt("stubfs", "superblock", 0, 1024, "wrong checksum")
		},
		"panics": func() (fsys.FS, error) { panic("index out of range") },
	}
	ts := time.Date(2026, 4, 12, 23, 30, 0, 0, time.FixedZone("", -2*3600))
	tr := newTree(t, engines,
		Backup{Name: "b2", Disks: []Disk{disk("x", "data")}},
		Backup{Name: "b1", VM: "web", Timestamp: ts, Disks: []Disk{
			disk("sys", "system"), disk("hostile", "hostile"), disk("bad", "corrupt"), disk("boom", "panics"), disk("nothing", "what"),
			{Name: "gone", Err: errors.New("open gone.qcow2: no such file")},
		}})
	paths := list(t, tr)
	for _, p := range []string{
		"/README.txt", "/METADATA.json",
		"/backups/b1/sys/etc/os-release", "/backups/b1/hostile/h", "/backups/b2/x/d",
		"/backups/b1/bad/ERROR.txt", "/backups/b1/boom/ERROR.txt", "/backups/b1/nothing/ERROR.txt", "/backups/b1/gone/ERROR.txt",
		"/disks/b1/sys.raw", "/disks/b1/bad.raw", "/disks/b2/x.raw",
		"/restores/2026-04-13/b1/web", "/restores/unknown-date/b2/vm",
	} {
		if !has(paths, p) {
			t.Errorf("%s is missing", p)
		}
	}
	if has(paths, "/disks/b1/gone.raw") {
		t.Error("/disks/b1/gone.raw is there, but the image could not be opened")
	}
	for path, want := range map[string]string{
		"/backups/b1/bad/ERROR.txt":     "superblock at byte 1024 is corrupt: wrong checksum",
		"/backups/b1/boom/ERROR.txt":    "defect of this program",
		"/backups/b1/gone/ERROR.txt":    "no such file",
		"/backups/b1/nothing/ERROR.txt": "nothing that this build recognizes",
		"/README.txt":                   "/backups/b1/bad  unreadable",
	} {
		if got := read(t, tr, path); !strings.Contains(got, want) {
			t.Errorf("%s: %q does not contain %q", path, got, want)
		}
	}
	var meta struct {
		Version int
		Backups []BackupReport
	}
	if err := json.Unmarshal([]byte(read(t, tr, "/METADATA.json")), &meta); err != nil || meta.Version != 1 {
		t.Fatalf("METADATA.json: version %d, %v", meta.Version, err)
	}
	states := map[string]State{}
	for _, d := range meta.Backups[0].Disks {
		states[d.Name] = d.State
	}
	want := map[string]State{
		"sys": StateReadable, "hostile": StateReadable, "bad": StateUnreadable, "boom": StateUnreadable,
		"nothing": StateUnreadable, "gone": StateUnreadable,
	}
	if !reflect.DeepEqual(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	if r, p, u := Summary(tr.Backups()); r != 3 || p != 0 || u != 4 {
		t.Errorf("summary %d readable, %d partial, %d unreadable; want 3, 0, 4", r, p, u)
	}
}

// TestSameInputSameTree: numbers and texts do not depend on the order of the input or on timing.
func TestSameInputSameTree(t *testing.T) {
	engines := stub{
		"a": func() (fsys.FS, error) { return labelled{guestFS(map[string]string{"f": "1"}), "", 0}, nil },
		"b": func() (fsys.FS, error) { return labelled{guestFS(map[string]string{"f": "2"}), "", 0}, nil },
	}
	one := newTree(t, engines, Backup{Name: "x", Disks: []Disk{disk("d1", "a"), disk("d2", "b")}}, Backup{Name: "y", Disks: []Disk{disk("d", "a")}})
	two := newTree(t, engines, Backup{Name: "y", Disks: []Disk{disk("d", "a")}}, Backup{Name: "x", Disks: []Disk{disk("d2", "b"), disk("d1", "a")}})
	for _, p := range list(t, one) {
		n1, err1 := one.Resolve(p, false)
		n2, err2 := two.Resolve(p, false)
		if err1 != nil || err2 != nil || one.ID(n1) != two.ID(n2) {
			t.Errorf("%s: ID %d (%v) and %d (%v)", p, one.ID(n1), err1, two.ID(n2), err2)
		}
	}
	if a, b := read(t, one, "/METADATA.json"), read(t, two, "/METADATA.json"); a != b {
		t.Errorf("METADATA.json differs:\n%s\n%s", a, b)
	}
}

func TestConfigErrors(t *testing.T) {
	d := disk("d", "x")
	for name, c := range map[string]struct {
		backups []Backup
		want    string
	}{
		"slash":            {[]Backup{{Name: "a/b", Disks: []Disk{d}}}, "backup name"},
		"dots":             {[]Backup{{Name: "..", Disks: []Disk{d}}}, "backup name"},
		"empty":            {[]Backup{{Name: "", Disks: []Disk{d}}}, "backup name"},
		"at":               {[]Backup{{Name: "a", Disks: []Disk{{Name: "d@p1", Reader: d.Reader}}}}, "disk name"},
		"newline":          {[]Backup{{Name: "a", VM: "x\n", Disks: []Disk{d}}}, "VM name"},
		"long":             {[]Backup{{Name: strings.Repeat("a", 254), Disks: []Disk{d}}}, "backup name"},
		"two backups":      {[]Backup{{Name: "a"}, {Name: "a"}}, "given twice"},
		"two disks":        {[]Backup{{Name: "a", Disks: []Disk{d, d}}}, "given twice"},
		"neither":          {[]Backup{{Name: "a", Disks: []Disk{{Name: "d"}}}}, "reader or an error"},
		"reader and error": {[]Backup{{Name: "a", Disks: []Disk{{Name: "d", Reader: d.Reader, Err: io.EOF}}}}, "reader or an error"},
	} {
		if _, err := New(context.Background(), Config{Backups: c.backups}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := New(ctx, Config{Backups: []Backup{{Name: "a", Disks: []Disk{d}}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
}

// wild is a file system whose every operation panics, as a defect in an engine would.
type wild struct{ labelled }

func (wild) Lookup(fsys.Ino, string) (fsys.Ino, error)                 { panic("lookup") }
func (wild) ReadDir(fsys.Ino, fsys.Cookie, []fsys.Dirent) (int, error) { panic("list") }
func (wild) Open(fsys.Ino) (extent.Reader, error)                      { return wildReader{extent.Zeros(10)}, nil }

type wildReader struct{ extent.Reader }

func (wildReader) ReadAt([]byte, int64) (int, error)          { panic(fmt.Errorf("read")) }
func (wildReader) Extent(int64, int64) (extent.Extent, error) { panic("extent") }

func TestPanicsBecomeErrors(t *testing.T) {
	tr := newTree(t, stub{"w": func() (fsys.FS, error) { return labelled{guestFS(nil), "", 0}, nil }},
		Backup{Name: "b", Disks: []Disk{disk("d", "w")}})
	tr.cur.Load().mounts[1].fs = wild{labelled{guestFS(nil), "", 0}}
	n, err := tr.Resolve("/backups/b/d", true)
	if err != nil {
		t.Fatal(err)
	}
	var p *PanicError
	if _, err := tr.Lookup(n, "x"); !errors.As(err, &p) || KindOf(err).Errno() != syscall.EIO || len(p.Stack) == 0 {
		t.Errorf("lookup: %v", err)
	}
	if _, err := tr.ReadDir(n, 0, make([]fsys.Dirent, 1)); !errors.As(err, &p) {
		t.Errorf("list: %v", err)
	}
	f, err := tr.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.As(err, &p) {
		t.Errorf("read: %v", err)
	}
	if _, err := f.Extent(0, 1); !errors.As(err, &p) {
		t.Errorf("extent: %v", err)
	}
	if s := tr.Stats(); s.Panics != 4 || s.Errors["internal"] != 4 {
		t.Errorf("stats %+v, want 4 panics", s)
	}
	if read(t, tr, "/README.txt") == "" {
		t.Error("the rest of the tree does not answer")
	}
}

func TestForeignIDs(t *testing.T) {
	tr := newTree(t, stub{}, Backup{Name: "b", Disks: []Disk{disk("d", "x")}})
	if tr.ID(tr.Root()) != 1 {
		t.Errorf("the root's ID is %d, want 1", tr.ID(tr.Root()))
	}
	for _, id := range []uint64{0, 1 << 47, 1<<48 | 1, 7 << 48, 1<<64 - 1} {
		if n, ok := tr.ByID(id); ok {
			t.Errorf("ID %#x leads to %v", id, n)
		}
	}
	n, ok := tr.ByID(1 << 40)
	if !ok {
		t.Fatal("an unused number of a mounted file system is not known to be unused before it is read")
	}
	if _, err := tr.Attr(n); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("attributes of an unused number: %v", err)
	}
}

func TestKinds(t *testing.T) {
	for k := range kinds {
		row := kindTable[k]
		if row.name == "" || row.errno == 0 || row.http < 400 || row.sftp == 0 || !strings.HasSuffix(row.advice, ".") {
			t.Errorf("kind %d has an incomplete row: %+v", k, row)
		}
	}
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{fsys.Corrupt("x", "y", 1, 2, "z"), KindCorrupt},
		{fmt.Errorf("a: %w", fsys.ErrNoKey), KindNoKey},
		{fmt.Errorf("a: %w", fsys.ErrNotRecognized), KindUnsupported},
		{&iofs.PathError{Err: iofs.ErrNotExist}, KindNotFound},
		{fsys.ErrNotDir, KindNotDir}, {fsys.ErrIsDir, KindIsDir}, {fsys.ErrNotRegular, KindNotFile},
		{ErrLoop, KindLoop}, {ErrNameTooLong, KindName}, {&engine.PanicError{}, KindInternal},
		{io.ErrUnexpectedEOF, KindIO}, {syscall.EIO, KindIO},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("%v: kind %v, want %v", c.err, got, c.want)
		}
	}
}
