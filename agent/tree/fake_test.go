package tree

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/volume"
)

// stub is an engine whose volumes begin with a line that names a file system of guests: the
// layout can be tested for every combination of disks without making one.
type stub map[string]func() (fsys.FS, error)

func (s stub) Name() string { return "stub" }

func (s stub) Open(v volume.Volume) (fsys.FS, error) {
	b := make([]byte, 64)
	n, err := v.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	name, _, _ := strings.Cut(string(b[:n]), "\n")
	if open, ok := s[name]; ok {
		return open()
	}
	return nil, fsys.ErrNotRecognized
}

// labelled gives the tree's own kind of file system a label and inode numbers of its choice.
type labelled struct {
	*static
	label string
	shift fsys.Ino
}

func (l labelled) Info() fsys.Info { return fsys.Info{Type: "stubfs", Label: l.label, Journal: "none"} }

func (l labelled) Root() fsys.Ino { return l.shift + 1 }

func (l labelled) Stat(i fsys.Ino) (fsys.Attr, error) { return l.static.Stat(i - l.shift) }

func (l labelled) Lookup(d fsys.Ino, n string) (fsys.Ino, error) {
	i, err := l.static.Lookup(d-l.shift, n)
	return i + l.shift, err
}

func (l labelled) ReadDir(d fsys.Ino, c fsys.Cookie, out []fsys.Dirent) (int, error) {
	n, err := l.static.ReadDir(d-l.shift, c, out)
	for i := range out[:n] {
		out[i].Ino += l.shift
	}
	return n, err
}

func (l labelled) Readlink(i fsys.Ino) (string, error) { return l.static.Readlink(i - l.shift) }

func (l labelled) Open(i fsys.Ino) (extent.Reader, error) { return l.static.Open(i - l.shift) }

// guestFS builds a file system from "path" -> content; "-> target" is a link, "/" a folder.
func guestFS(files map[string]string) *static {
	s := newStatic(time.Unix(1000, 0))
	for path, content := range files {
		dir := s.root()
		parts := strings.Split(path, "/")
		for _, p := range parts[:len(parts)-1] {
			dir = s.dir(dir, p, time.Unix(1000, 0))
		}
		name := parts[len(parts)-1]
		switch {
		case content == "/":
			s.dir(dir, name, time.Unix(1000, 0))
		case strings.HasPrefix(content, "-> "):
			s.link(dir, name, strings.TrimPrefix(content, "-> "), time.Unix(1000, 0))
		default:
			s.text(dir, name, content, time.Unix(1000, 0))
		}
	}
	return s
}

// newTree makes a tree whose disks hold what their names' engines say.
func newTree(t *testing.T, engines stub, backups ...Backup) *Tree {
	t.Helper()
	tr, err := New(context.Background(), Config{Backups: backups, Engines: []engine.Engine{engines}, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// disk is an unpartitioned disk whose first line names a file system of the stub engine.
func disk(name, holds string) Disk {
	b := make([]byte, 1<<20)
	copy(b, holds+"\n")
	return Disk{Name: name, Source: name + ".raw", Format: "raw", Reader: extent.Bytes(b), ModTime: time.Unix(2000, 0)}
}

func read(t *testing.T, tr *Tree, path string) string {
	t.Helper()
	n, err := tr.Resolve(path, true)
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	f, err := tr.Open(n)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(b)
}

// twoPartitions is a disk with an MBR and two partitions, each holding what a stub names.
func twoPartitions(t *testing.T, one, two string) extent.Reader {
	t.Helper()
	b := make([]byte, 4<<20)
	for i, name := range []string{one, two} {
		e := b[446+16*i:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], uint32(2048*(i+1)))
		binary.LittleEndian.PutUint32(e[12:], 2048)
		copy(b[(i+1)<<20:], name+"\n")
	}
	b[510], b[511] = 0x55, 0xaa
	return extent.Bytes(b)
}
