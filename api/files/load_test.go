package files

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// TestMemoryOfManyClients lets 64 clients pull from the real program at once, half of them a
// file and half of them archives.
func TestMemoryOfManyClients(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	fixture.Need(t, "curl")
	const clients, limit = 64, 256 << 10 // KiB
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "big"), random(8<<20))
	fixture.Sparse(t, filepath.Join(src, "holes"), 1<<30)
	for i := range 500 {
		writeFile(t, filepath.Join(src, fmt.Sprintf("small-%03d", i)), random(3000))
	}
	img := fixture.Ext4(t, src, 1<<30)
	server := fixture.Serve(t, fixture.Program(t, fixture.Agent), "--listen-ssh", "off", "--disk", "b/d="+img+",format=raw")
	h, password := server.HTTPS, server.Password(t)
	var wg sync.WaitGroup
	for i := range clients {
		path := "/files/backups/b/d/big"
		switch i % 4 { // archives are at most 32 at once
		case 1:
			path = "/api/v1/archive?format=tar&path=/backups/b/d"
		case 3:
			path = "/api/v1/archive?format=zip&path=/backups/b/d/big"
		}
		wg.Go(func() {
			out, err := exec.Command("curl", "-q", "-sS", "--fail", "--cacert", h.CAFile, "-u", h.User+":"+password, "-o", "/dev/null", "-w", "%{size_download}", h.URL+path).CombinedOutput()
			if n, _ := strconv.Atoi(string(out)); err != nil || n < 8<<20 {
				t.Errorf("%s: %v: %s", path, err, out)
			}
		})
	}
	wg.Wait()
	peak := 0
	for _, p := range fixture.PeakMemory(t, server.Cmd.Process.Pid) {
		peak += int(p >> 10)
	}
	t.Logf("peak of %d MiB", peak>>10)
	if peak == 0 || peak > limit {
		t.Errorf("%d KiB, want at most %d", peak, limit)
	}
}

// wide is a file system whose root holds n files. It is its own engine.
type wide struct {
	n     uint64
	reads atomic.Int64 // of pieces of the folder
	begun chan struct{}
	once  sync.Once
}

var _ fsys.FS = (*wide)(nil)

type wideEngine struct{ w *wide }

func (wideEngine) Name() string                          { return "wide" }
func (e wideEngine) Open(volume.Volume) (fsys.FS, error) { return e.w, nil }
func (*wide) Info() fsys.Info                            { return fsys.Info{Type: "wide"} }
func (*wide) Root() fsys.Ino                             { return 1 }
func (*wide) Readlink(fsys.Ino) (string, error)          { return "", fsys.ErrNotLink }
func (*wide) Open(fsys.Ino) (extent.Reader, error)       { return extent.Zeros(0), nil }
func (*wide) Close() error                               { return nil }
func (*wide) Lookup(fsys.Ino, string) (fsys.Ino, error)  { return 0, os.ErrNotExist }
func (w *wide) size(i fsys.Ino) int64                    { return int64(uint32(i) * 2654435761) } // in no order, all different

func (w *wide) Stat(i fsys.Ino) (fsys.Attr, error) {
	if i == 1 {
		return fsys.Attr{Ino: i, Mode: fsys.ModeDir | 0o755, Nlink: 2}, nil
	}
	return fsys.Attr{Ino: i, Mode: fsys.ModeRegular | 0o644, Nlink: 1, Size: w.size(i)}, nil
}

func (w *wide) ReadDir(d fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	if w.reads.Add(1) == 50 && w.begun != nil {
		w.once.Do(func() { close(w.begun) })
	}
	for i := range out {
		if uint64(from) >= w.n {
			return i, io.EOF
		}
		from++
		out[i] = fsys.Dirent{Name: fmt.Sprintf("f%06d", from), Ino: 1 + fsys.Ino(from), Type: fsys.ModeRegular, Next: from}
	}
	return len(out), nil
}

// openWide makes a tree of w.
func openWide(t *testing.T, w *wide) *tree.Tree {
	t.Helper()
	blank := filepath.Join(t.TempDir(), "blank")
	fixture.Sparse(t, blank, 1<<20)
	tr, err := tree.New(context.Background(), tree.Config{
		Backups: []tree.Backup{{Name: "nightly", Disks: []tree.Disk{{Name: "root", Format: "raw", Reader: openImage(t, blank)}}}}, Engines: []engine.Engine{wideEngine{w}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// TestHundredThousandEntries: the first page needs no more of the folder than it shows, and
// sorted pages together are the folder, which is read once for all of them.
func TestHundredThousandEntries(t *testing.T) {
	const n = 100_000
	w := &wide{n: n}
	s := start(t, openWide(t, w), nil)
	type page struct {
		listed
		Total int
	}
	get := func(query string) (p page) {
		t.Helper()
		a := s.get("/api/v1/entries?path=" + disk + query)
		if err := json.Unmarshal(a.body, &p); err != nil || a.status != 200 {
			t.Fatalf("%s: %d %v %.200s", query, a.status, err, a.body)
		}
		return p
	}
	before := w.reads.Load()
	if p := get("&limit=1000"); len(p.Entries) != 1000 || p.Next == "" {
		t.Errorf("%d entries on the first page", len(p.Entries))
	}
	if k := w.reads.Load() - before; k > 10 {
		t.Errorf("the first page took %d reads of the folder", k)
	}
	seen, last, cursor, sorted := map[string]bool{}, int64(-1), "", int64(0)
	for {
		p := get("&limit=10000&sort=size&cursor=" + cursor)
		if cursor == "" {
			sorted = w.reads.Load()
		}
		if p.Total != n {
			t.Fatalf("total %d", p.Total)
		}
		for _, e := range p.Entries {
			if e.Size <= last || seen[e.Name] {
				t.Fatalf("%s with %d bytes after %d", e.Name, e.Size, last)
			}
			last, seen[e.Name] = e.Size, true
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d entries in all pages, want %d", len(seen), n)
	}
	if k := w.reads.Load() - sorted; k != 0 {
		t.Errorf("the folder was read %d times more after it had been sorted", k)
	}
}

// TestSearchEndsWithItsClient: a search of hours ends when the client goes, whether it has
// found something or not.
func TestSearchEndsWithItsClient(t *testing.T) {
	for _, query := range []string{"name=none", "name=f00*&limit=10000000"} {
		w := &wide{n: 1 << 40}
		tr := openWide(t, w)
		w.begun = make(chan struct{}) // opening looks into the folder, too
		w.reads.Store(0)
		if !leaveDuring(t, tr, "GET", "/api/v1/search?"+query, w.begun, 30*time.Second) {
			t.Fatalf("%s: the search goes on", query)
		}
	}
}
