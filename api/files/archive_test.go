package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// richGuest makes an image with everything that a tar archive can tell, by the kernel.
func richGuest(t testing.TB) (img string, m fsystest.Manifest, mnt string) {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "setfattr", "setfacl", "setcap")
	src := t.TempDir()
	populate(t, src)
	img = fixture.Ext4(t, src, 96<<20, "-I", "512")
	mnt = fixture.Mount(t, img, "ext4", "rw", 0, 0)
	p := func(name string) string { return filepath.Join(mnt, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(p("rich/deep"), 0o2775))
	for _, name := range []string{"acl", "caps", "xattr", "old", "future", "owner", "setuid", "linked", "nano"} {
		check(os.WriteFile(p("rich/"+name), []byte("content of "+name), 0o644))
	}
	fixture.Run(t, "setfacl", "-m", "u:1234:r-x,g:4321:rw-,m::rwx", p("rich/acl"))
	fixture.Run(t, "setfacl", "-d", "-m", "u:1234:rwx", p("rich/deep"))
	fixture.Run(t, "setcap", "cap_net_bind_service+ep", p("rich/caps"))
	fixture.Run(t, "setfattr", "-n", "user.with=equals%", "-v", "0x00ff0a3d", p("rich/xattr"))
	fixture.Run(t, "setfattr", "-n", "user.empty", p("rich/xattr"))
	fixture.Run(t, "setfattr", "-n", "trusted.folder", "-v", "x", p("rich/deep"))
	check(os.Lchown(p("rich/owner"), 3000000000, 2999999999))
	check(os.Chmod(p("rich/setuid"), 0o755|os.ModeSetuid|os.ModeSticky))
	check(os.Link(p("rich/linked"), p("rich/deep/link-1")))
	check(os.Link(p("rich/linked"), p("rich/link-2")))
	long := p("rich/" + strings.Repeat("d", 200))
	check(os.MkdirAll(long, 0o755))
	check(os.WriteFile(long+"/"+strings.Repeat("f", 200), []byte("long"), 0o600))
	check(os.Symlink(strings.Repeat("t", 300), p("rich/longlink")))
	check(unix.Mknod(p("rich/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(p("rich/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	check(unix.Mkfifo(p("rich/fifo"), 0o600))
	for name, size := range map[string]int64{"hole": 40 << 20, "tail": 8<<20 + 123, "sparse-" + strings.Repeat("s", 120): 200 << 20} {
		f, err := os.Create(p("rich/" + name))
		check(err)
		if name != "hole" {
			_, err = f.WriteAt(random(10000), 1<<20)
			check(err)
			_, err = f.WriteAt(random(10000), size-10000-int64(len(name)%2)*5000)
			check(err)
		}
		check(f.Truncate(size))
		check(f.Close())
	}
	times := func(name string, sec, nsec int64) {
		ts := unix.NsecToTimespec(sec*1e9 + nsec)
		check(unix.UtimesNanoAt(unix.AT_FDCWD, p("rich/"+name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	times("old", -1000, 250000000)
	times("future", 9e9, 1)
	times("nano", 1e9, 123456789)
	fixture.Unmount(t, mnt)
	mnt = fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	return img, fixture.Manifest(t, mnt), mnt
}

// scratch is a file system of its own for what tar extracts: /tmp may lack attributes or holes.
func scratch(t testing.TB) string {
	return fixture.Mount(t, fixture.Ext4(t, "", 256<<20, "-I", "512"), "ext4", "rw", 0, 0)
}

// same compares two trees as the kernel sees them; what an archive cannot hold is not compared.
func same(t *testing.T, got, want fsystest.Manifest) {
	t.Helper()
	for path, w := range want {
		g, ok := got[path]
		switch {
		case path == "." || strings.HasPrefix(path, "lost+found"):
			continue
		case !ok:
			t.Errorf("%q is missing", path)
			continue
		case g.Mode != w.Mode || g.UID != w.UID || g.GID != w.GID || g.Nlink != w.Nlink || g.Target != w.Target || g.Major != w.Major || g.Minor != w.Minor || g.SHA256 != w.SHA256:
			t.Errorf("%q: got %+v\nwant %+v", path, g, w)
		case g.Mtime != w.Mtime:
			t.Errorf("%q: modified %d, want %d", path, g.Mtime, w.Mtime)
		}
		if w.Mode&fsys.ModeFmt == fsys.ModeRegular && (g.Size != w.Size || g.Blocks > w.Blocks+8) {
			t.Errorf("%q: %d bytes in %d blocks, want %d in %d", path, g.Size, g.Blocks, w.Size, w.Blocks)
		}
		if !maps.Equal(g.Xattrs, w.Xattrs) {
			t.Errorf("%q: attributes %q, want %q", path, g.Xattrs, w.Xattrs)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is too much", path)
		}
	}
}

// known checks the two things that libarchive is known to read otherwise, and takes them out.
func known(t *testing.T, got, want fsystest.Manifest) {
	t.Helper()
	x, old := got["rich/xattr"], got["rich/old"]
	if x.Xattrs["user.with%3Dequals%25"] != "\x00\xff\n=" || old.Mtime == want["rich/old"].Mtime {
		t.Errorf("libarchive reads them rightly now: %+v %+v", x, old)
	}
	x.Xattrs, old.Mtime = want["rich/xattr"].Xattrs, want["rich/old"].Mtime
	got["rich/xattr"], got["rich/old"] = x, old
}

// pipe runs curl into a program, as people do.
func (s *server) pipe(url, program string, args ...string) string {
	s.t.Helper()
	fixture.Need(s.t, "curl", program)
	curl := exec.Command("curl", "-q", "-sS", "--fail", "--cacert", s.caFile, "-u", testUser+":"+testPassword, s.url(url))
	cmd := exec.Command(program, args...)
	var errs lockedBuffer // both write to it at once
	var out bytes.Buffer
	curl.Stderr, cmd.Stderr, cmd.Stdout = &errs, &errs, &out
	in, err := curl.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdin = in
	if err := errors.Join(curl.Start(), cmd.Start()); err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(cmd.Wait(), curl.Wait()); err != nil || strings.Contains(strings.ReplaceAll(errs.String(), "keyword 'hdrcharset'", ""), "unknown extended header keyword '") {
		s.t.Fatalf("%s: %v\n%s", program, err, errs.String())
	}
	return out.String()
}

// TestTarEqualsTheKernelsTree: what GNU tar and bsdtar make of our archives is what the kernel
// sees in the image, with all attributes, holes, links and times.
func TestTarEqualsTheKernelsTree(t *testing.T) {
	img, want, _ := richGuest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	dst := scratch(t)
	all := "/api/v1/archive?path=" + disk
	gnu := []string{"--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf", "-", "-C"}
	bsd := []string{"--acls", "--xattrs", "--numeric-owner", "-xpf", "-", "-C"}
	for _, c := range []struct {
		query, program string
		args           []string
	}{
		{"&format=tar", "tar", gnu},
		{"&format=tar.zst", "tar", append([]string{"--zstd"}, gnu...)},
		{"&format=tar&resumable=1", "tar", gnu},
		{"&format=tar", "bsdtar", bsd},
	} {
		t.Run(c.program+c.query, func(t *testing.T) {
			to := filepath.Join(dst, strings.Map(func(r rune) rune {
				if r == '&' || r == '=' {
					return '_'
				}
				return r
			}, c.program+c.query))
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			s.t = t
			s.pipe(all+c.query, c.program, append(slices.Clone(c.args), to)...)
			got := fixture.Manifest(t, filepath.Join(to, "root"))
			if c.program == "bsdtar" { // it does not decode names of attributes, and adds a fraction to a negative second
				known(t, got, want)
			}
			same(t, got, want)
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
		})
	}
	s.t = t
}

// TestTarAsGoAndPythonReadIt: two more readers, which tell of defects that tar forgives.
func TestTarAsGoAndPythonReadIt(t *testing.T) {
	img, want, _ := richGuest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	a := s.get("/api/v1/archive?path=" + disk + "/rich&format=tar")
	if a.err != nil || a.status != 200 || a.header.Get("Content-Type") != "application/x-tar" || a.header.Get("Content-Disposition") != `attachment; filename="rich.tar"` {
		t.Fatalf("%d %v %v", a.status, a.err, a.header)
	}
	r := tar.NewReader(bytes.NewReader(a.body))
	n := 0
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		w, ok := want[strings.TrimSuffix(h.Name, "/")]
		if !ok || int64(w.UID) != int64(h.Uid) || w.Mtime != h.ModTime.UnixNano() || w.Atime != h.AccessTime.UnixNano() {
			t.Errorf("%q: %+v, want %+v", h.Name, h, w)
		}
		if h.Typeflag == tar.TypeReg && h.Size != w.Size {
			t.Errorf("%q: %d bytes, want %d", h.Name, h.Size, w.Size)
		}
	}
	rich := 0
	for path := range want {
		if strings.HasPrefix(path+"/", "rich/") {
			rich++
		}
	}
	if n != rich {
		t.Errorf("%d members, want %d", n, rich)
	}
	fixture.Need(t, "python3")
	file := filepath.Join(t.TempDir(), "a.tar")
	writeFile(t, file, a.body)
	fixture.Run(t, "python3", "-c", `
import tarfile, sys
t = tarfile.open(sys.argv[1])
assert t.getmember("rich/owner").uid == 3000000000
assert t.getmember("rich/tail").size == 8*2**20 + 123, t.getmember("rich/tail").size
assert t.getmember("rich/link-2").islnk() or t.getmember("rich/linked").islnk()
assert len(t.getmembers()) == int(sys.argv[2])
`, file, fmt.Sprint(n))
}

// TestResumableTar: the parts of an archive, also across servers, are the whole.
func TestResumableTar(t *testing.T) {
	img, _, _ := richGuest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	u := "/api/v1/archive?path=" + disk + "/rich&path=" + disk + "/odd&format=tar&resumable=1"
	whole := s.get(u)
	size := len(whole.body)
	if whole.status != 200 || whole.err != nil || whole.header.Get("Content-Length") != fmt.Sprint(size) || size%512 != 0 {
		t.Fatalf("%d %v %v", whole.status, whole.err, whole.header)
	}
	etag := whole.header.Get("ETag")
	other := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, r := range [][2]int{{0, 1}, {511, 513}, {1000, 70000}, {size - 1025, size}, {size / 2, size/2 + 30000}} {
		a := other.get(u, fmt.Sprintf("Range: bytes=%d-%d", r[0], r[1]-1), "If-Range: "+etag)
		if a.status != 206 || !bytes.Equal(a.body, whole.body[r[0]:r[1]]) || a.header.Get("ETag") != etag {
			t.Errorf("%v: %d, %d bytes, %v", r, a.status, len(a.body), a.header)
		}
	}
	if a := other.get(u, "Range: bytes=0-9,5000-5009"); a.status != 206 || !bytes.Contains(a.body, whole.body[5000:5010]) {
		t.Errorf("two ranges: %d %q", a.status, a.body)
	}
	if a := other.get(u, "If-None-Match: "+etag); a.status != 304 {
		t.Errorf("If-None-Match: %d", a.status)
	}
	if a := other.do(other.client(true), "HEAD", u); a.header.Get("Content-Length") != fmt.Sprint(size) || a.header.Get("ETag") != etag {
		t.Errorf("HEAD: %v", a.header)
	}
	if a := other.get("/api/v1/archive?path=" + disk + "/odd&format=tar&resumable=1"); a.header.Get("ETag") == etag {
		t.Error("two archives have one ETag")
	}
	part := filepath.Join(t.TempDir(), "part.tar")
	writeFile(t, part, whole.body[:54321])
	s.mustCurl("--fail", "-C", "-", "-o", part, s.url(u))
	if sumFile(t, part) != sum(whole.body) {
		t.Error("the resumed download differs")
	}
}

// TestZip: Info-ZIP and Python make the kernel's tree of it, as far as zip can tell.
func TestZip(t *testing.T) {
	img, want, _ := richGuest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	fixture.Need(t, "unzip", "python3")
	// 9 GiB of hole would take unzip longer than all else.
	for _, folder := range []string{"odd", "etc", "odd-dirs"} {
		file := filepath.Join(t.TempDir(), "a.zip")
		s.mustCurl("--fail", "-o", file, s.url("/api/v1/archive?path="+disk+"/"+folder))
		dst := scratch(t)
		cmd := exec.Command("unzip", "-q", "-V", "-X", "-o", file, "-d", dst)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("unzip: %v\n%s", err, out)
		}
		got := fixture.Manifest(t, dst)
		errorsText, _ := os.ReadFile(filepath.Join(dst, "ERRORS.txt"))
		n := 0
		for path, w := range want {
			if !strings.HasPrefix(path, folder+"/") {
				continue
			}
			n++
			g, ok := got[zipNameOf(path)]
			if !ok || g.SHA256 != w.SHA256 || g.Mode != w.Mode || g.UID != w.UID || g.Target != w.Target || g.Mtime/1e9 != w.Mtime/1e9 && w.Mode&fsys.ModeFmt == fsys.ModeRegular {
				t.Errorf("%q: got %v %+v, want %+v", path, ok, g, w)
			}
			if zipNameOf(path) != path && !bytes.Contains(errorsText, fmt.Appendf(nil, "%q", path)) {
				t.Errorf("%q was renamed in silence", path)
			}
		}
		if n == 0 {
			t.Error("nothing was compared")
		}
		fixture.Run(t, "python3", "-c", `
import zipfile, sys
z = zipfile.ZipFile(sys.argv[1])
assert z.testzip() is None
assert not any(n.startswith("/") or ".." in n.split("/") or "\\" in n for n in z.namelist())
`, file)
	}
	a := s.get("/api/v1/archive?path=" + disk + "/rich/null&path=" + disk + "/rich/acl&format=zip")
	if !bytes.Contains(a.body, []byte("ERRORS.txt")) {
		t.Error("a device node is left out of a zip in silence")
	}
}

func zipNameOf(p string) string {
	r := strings.NewReplacer("\\", "%5C", "\n", "%0A", "\t", "%09", "\x01\x1b", "%01%1B", "\u202e", "%E2%80%AE", "\xe9\xff", "%E9%FF", "\xff\xfe", "%FF%FE",
		"%2e%2e", "%252e%252e", "%2Fetc", "%252Fetc")
	return r.Replace(p)
}

// TestZip64: more than 4 GiB in one member, and more members than 16 bits count.
func TestZip64(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	fixture.NeedRoot(t)
	fixture.Need(t, "unzip", "python3")
	img := fixture.Ext4(t, "", 96<<20, "-N", "72000")
	mnt := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	fixture.Run(t, "truncate", "-s", "4100M", mnt+"/huge")
	fixture.Run(t, "bash", "-c", `mkdir "$0/many" && cd "$0/many" && seq 1 66000 | xargs touch`, mnt)
	fixture.Unmount(t, mnt)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	file := filepath.Join(t.TempDir(), "a.zip")
	s.mustCurl("--fail", "-o", file, s.url("/api/v1/archive?path="+disk))
	fixture.Run(t, "python3", "-c", `
import zipfile, sys
z = zipfile.ZipFile(sys.argv[1])
assert len(z.namelist()) == 66004, len(z.namelist())
assert z.getinfo("root/huge").file_size == 4100 << 20
`, file)
	if out := fixture.Run(t, "unzip", "-q", "-t", file, "root/huge", "root/many/7*"); !strings.Contains(out, "No errors") {
		t.Error(out)
	}
}

// TestArchiveNamesWhatItLacks: damage never makes an archive shorter in silence.
func TestArchiveNamesWhatItLacks(t *testing.T) {
	corrupt := fsys.Corrupt("ext4", "extent tree", 12, 4096, "for the test")
	f := &faulty{fail: map[string]func(int64) error{
		"first": func(int64) error { return corrupt },
		"later": func(end int64) error {
			if end > 1<<20 && end <= 2<<20 {
				return corrupt
			}
			return nil
		},
	}}
	src := t.TempDir()
	for _, n := range []string{"first", "good", "later"} {
		writeFile(t, filepath.Join(src, n), random(4<<20))
	}
	s := start(t, faultyTree(t, f, fixture.Ext4(t, src, 64<<20)), nil)
	for _, n := range []string{"first", "later", "good"} {
		s.do(s.client(false), "HEAD", "/files"+disk+"/"+n) // tells faulty the names
	}
	fixture.Need(t, "tar", "unzip")
	for _, format := range []string{"tar", "zip"} {
		dst := t.TempDir()
		file := filepath.Join(t.TempDir(), "a."+format)
		s.mustCurl("--fail", "-o", file, s.url("/api/v1/archive?path="+disk+"&format="+format))
		if format == "tar" {
			fixture.Run(t, "tar", "-xf", file, "-C", dst)
		} else {
			fixture.Run(t, "unzip", "-q", file, "-d", dst)
		}
		text, err := os.ReadFile(filepath.Join(dst, "ERRORS.txt"))
		if err != nil || !bytes.Contains(text, []byte(`"root/first": it is missing here`)) || !bytes.Contains(text, []byte(`"root/later": its bytes 1`)) {
			t.Errorf("%s: %v %s", format, err, text)
		}
		got, err := os.ReadFile(filepath.Join(dst, "root/later"))
		want := random(4 << 20)
		if err != nil || len(got) != len(want) || !bytes.Equal(got[:1<<20-256<<10], want[:1<<20-256<<10]) || !bytes.Equal(got[2<<20:], want[2<<20:]) || bytes.Equal(got, want) {
			t.Errorf("%s: the damaged file has %d bytes, %v", format, len(got), err)
		}
		if _, err := os.Stat(filepath.Join(dst, "root/first")); err == nil {
			t.Errorf("%s: a file without a readable byte is there", format)
		}
		if sumFile(t, filepath.Join(dst, "root/good")) != sum(want) {
			t.Errorf("%s: the file beside it differs", format)
		}
	}
	// Without ERRORS.txt the connection breaks.
	if a := s.get("/api/v1/archive?path=" + disk + "/later&format=tar&resumable=1"); a.err == nil || a.status != 200 {
		t.Errorf("resumable: %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
	s.get("/api/v1/archive?path="+disk+"/first&format=tar&resumable=1").problem(t, 500, "corrupt")
}

// TestArchiveIsRefused: mistakes are answers, not empty archives.
func TestArchiveIsRefused(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), func(c *Config) { c.Limits.Memory = 1000 })
	for query, kind := range map[string]string{
		"": "bad_parameter", "path=/a/../b": "bad_parameter", "path=" + disk + "&format=rar": "bad_parameter", "path=" + disk + "&resumable=1": "bad_parameter",
		"path=" + disk + "&fromat=tar": "bad_parameter", "path=/x%00": "bad_parameter", "path=" + disk + "&format=tar&format=zip": "bad_parameter",
	} {
		if a := s.get("/api/v1/archive?" + query); a.status != 400 {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		} else {
			a.problem(t, 400, kind)
		}
	}
	s.get("/api/v1/archive?path=/nothing").problem(t, 404, "not_found")
	// No memory: a resumable archive is refused, a zip says that it is not whole.
	s.get("/api/v1/archive?path="+disk+"&format=tar&resumable=1").problem(t, 503, "busy")
	if a := s.get("/api/v1/archive?path=" + disk + "/odd"); a.status != 200 || !bytes.Contains(a.body, []byte("ERRORS.txt")) {
		t.Errorf("zip: %d", a.status)
	}
}
