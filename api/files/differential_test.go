package files

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

const disk = "/backups/nightly/root"

// random returns n bytes that are the same in every run.
func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

// oddNames are legal names that go wrong somewhere on the way through HTTP, HTML or a shell.
var oddNames = []string{
	"new\nline", `quo"te`, "apos'trophe", "<script>alert(1)<", "latin1-\xe9\xff", strings.Repeat("n", 255), strings.Repeat("%", 255),
	"100%", "%2e%2e", "%2Fetc", "a+b c", "semi;colon", "hash#mark", "que?ry=1", "&amp;", "back\\slash", "tab\there", "\x01\x1b[31m",
	"...", "-rf", "ünïcode", "\u202egnp.exe", "c:", "*", "~", "{{.}}", " ", "trailing ",
}

// populate writes the guest's files.
func populate(t testing.TB, dir string) {
	t.Helper()
	write := func(name string, b []byte) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/hosts", []byte("127.0.0.1 localhost\n"))
	write("etc/empty", nil)
	write("big.bin", random(3<<20+123))
	write("index.html", []byte("<script>alert(1)</script>"))
	write("image.svg", []byte("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"))
	for _, n := range oddNames {
		write("odd/"+n, []byte("content of "+n))
		write("odd-dirs/"+n+"/inside", []byte(n))
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("etc/hosts", "rel")
	link("/etc/hosts", "abs")
	link("/etc", "absdir")
	link("loop2", "loop1")
	link("loop1", "loop2")
	link("../../../../../../../../etc/hosts", "climb")
	link("/proc/self/environ", "escape")
	link("nowhere", "dangling")
	link("bad-\xff\xfe", "badtarget")
	if err := os.Link(filepath.Join(dir, "etc/hosts"), filepath.Join(dir, "hardlink")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 5 << 20, 9<<20 + 77} {
		if _, err := f.WriteAt(random(9000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(12<<20 + 5); err != nil {
		t.Fatal(err)
	}
}

// guest makes the image of populate and what the kernel sees in it.
func guest(t testing.TB) (img string, m fsystest.Manifest, mnt string) {
	t.Helper()
	src := t.TempDir()
	populate(t, src)
	img = fixture.Ext4(t, src, 64<<20)
	mnt = fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	return img, fixture.Manifest(t, mnt), mnt
}

// TestEveryObjectEqualsTheKernels reads every path of the guest over HTTPS and compares bytes,
// attributes and folders with the kernel's mount of the same image.
func TestEveryObjectEqualsTheKernels(t *testing.T) {
	img, manifest, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, h1 := range []bool{true, false} {
		c := s.client(h1)
		files, dirs := 0, 0
		for path, want := range manifest {
			u := fileURL(append(strings.Split(disk[1:], "/"), split(path)...), false)
			var e entry
			if a := s.do(c, "GET", u+"?nofollow=1"); json.Unmarshal(a.body, &e) != nil {
				t.Fatalf("%q: %d %s", path, a.status, a.body)
			}
			compareEntry(t, path, e, want)
			switch want.Mode & fsys.ModeFmt {
			case fsys.ModeRegular:
				files++
				a := s.do(c, "GET", u)
				if a.status != http.StatusOK || sum(a.body) != want.SHA256 || a.header.Get("ETag") != e.ETag {
					t.Errorf("%q: status %d, %d bytes, want %d", path, a.status, len(a.body), want.Size)
				}
				if want := map[bool]string{true: "HTTP/1.1", false: "HTTP/2.0"}[h1]; a.proto != want {
					t.Fatalf("protocol %s, want %s", a.proto, want)
				}
			case fsys.ModeDir:
				dirs++
				names := map[string]bool{}
				for _, e := range s.listAll(c, u, 7) {
					names[e.bytes()] = true
				}
				for other := range manifest {
					if other == "." || filepath.Dir(other) != path {
						continue
					}
					if !names[filepath.Base(other)] {
						t.Errorf("%q lacks %q", path, filepath.Base(other))
					}
					delete(names, filepath.Base(other))
				}
				if len(names) > 0 {
					t.Errorf("%q has %v, which the kernel does not show", path, names)
				}
			}
		}
		if files < len(oddNames)*2 || dirs < len(oddNames) {
			t.Fatalf("only %d files and %d folders compared", files, dirs)
		}
	}
	if n := s.counters.Snapshot(); n.Bytes == 0 || n.OpenFiles != 0 || n.Ops["list"] == 0 {
		t.Errorf("counters: %+v", n)
	}
}

func split(path string) []string {
	if path == "." {
		return nil
	}
	return strings.Split(path, "/")
}

func compareEntry(t *testing.T, path string, e entry, want fsystest.Entry) {
	t.Helper()
	got := fsystest.Entry{
		Mode: want.Mode&fsys.ModeFmt | mode(t, e.Mode), UID: e.UID, GID: e.GID, Size: e.Size, Nlink: e.Nlink, Blocks: e.Allocated / 512,
	}
	wantName := filepath.Base(path)
	if path == "." {
		wantName = "root"
	}
	if e.bytes() != wantName || e.Type != typeName(want.Mode) || got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID ||
		got.Size != want.Size || got.Nlink != want.Nlink || got.Blocks != want.Blocks || e.Inode&(1<<47-1) != want.Ino || e.target() != want.Target {
		t.Errorf("%q: got %+v, want %+v", path, e, want)
	}
	if e.Mtime != timestamp(nanos(want.Mtime)) || e.Ctime != timestamp(nanos(want.Ctime)) {
		t.Errorf("%q: times %s %s", path, e.Mtime, e.Ctime)
	}
}

// TestOddNamesByCurl downloads each odd name with the real client, as a file and as a folder.
func TestOddNamesByCurl(t *testing.T) {
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, n := range oddNames {
		out := filepath.Join(t.TempDir(), "out")
		s.mustCurl("--fail", "-o", out, s.url("/files"+disk+"/odd/"+url.PathEscape(n)))
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(mnt, "odd", n))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%q: got %q", n, got)
		}
		if page := s.mustCurl("--fail", s.url("/files"+disk+"/odd-dirs/"+url.PathEscape(n)+"/")); !strings.Contains(page, "/inside") {
			t.Errorf("%q: page %s", n, page)
		}
	}
	for path, want := range map[string]string{
		"big.bin": sumFile(t, filepath.Join(mnt, "big.bin")), "sparse": sumFile(t, filepath.Join(mnt, "sparse")),
	} {
		if got := sum([]byte(s.mustCurl("--fail", s.url("/files"+disk+"/"+path)))); got != want {
			t.Errorf("%s differs", path)
		}
	}
}
