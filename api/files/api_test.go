package files

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// openBackups makes a tree of several backups of one disk, a day apart.
func openBackups(t testing.TB, images ...string) *tree.Tree {
	t.Helper()
	var cfg tree.Config
	for i, img := range images {
		cfg.Backups = append(cfg.Backups, tree.Backup{
			Name: fmt.Sprintf("b%d", i+1), VM: "web", Timestamp: time.Date(2026, 4, 12+i, 2, 0, 0, 0, time.UTC),
			Disks: []tree.Disk{{Name: "root", Format: "raw", Reader: openImage(t, img), ModTime: time.Unix(1e9, 0)}},
		})
	}
	cfg.Engines, cfg.Version = []engine.Engine{native{}}, "test"
	tr, err := tree.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// threeBackups is a disk on three days: unchanged on the second, changed on the third.
func threeBackups(t testing.TB) []string {
	t.Helper()
	fixture.NeedRoot(t)
	src := t.TempDir()
	populate(t, src)
	for i := range 300 {
		writeFile(t, filepath.Join(src, "etc", fmt.Sprintf("file-%03d.conf", i)), fmt.Appendf(nil, "line %d\n", i))
	}
	writeFile(t, filepath.Join(src, "text"), []byte(strings.Repeat("one\ntwo\nthree\nfour\nfive\n", 5)))
	first := fixture.Ext4(t, src, 64<<20)
	third := filepath.Join(t.TempDir(), "third.raw")
	fixture.Run(t, "cp", first, third)
	mnt := fixture.Mount(t, third, "ext4", "rw", 0, 0)
	fixture.Run(t, "bash", "-c", `cd "$0" && sed -i 's/three/drei/' text && rm etc/file-007.conf && mkdir new && echo new >new/file && chmod 700 etc &&
		chown 5:6 hardlink && rm rel && mkdir rel && touch -d '2001-01-01' etc/file-008.conf && printf '\xff\xfeh\x00i\x00\n\x00' >utf16`, mnt)
	fixture.Unmount(t, mnt)
	return []string{first, first, third}
}

// ndjson decodes an answer line by line.
func ndjson[T any](t testing.TB, a answer) []T {
	t.Helper()
	if a.err != nil || a.status != 200 || a.header.Get("Content-Type") != ndjsonType {
		t.Fatalf("%d %v %v %.300s", a.status, a.err, a.header, a.body)
	}
	var out []T
	for sc := bufio.NewScanner(bytes.NewReader(a.body)); sc.Scan(); {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatalf("%v: %s", err, sc.Bytes())
		}
		out = append(out, v)
	}
	return out
}

// searchRow and diffRow are lines as a client decodes them.
type searchRow struct {
	Event, Path, Backup string
	PathBytes           []byte
	Same                []samePath
	entry
	searchEnd
}

type diffRow struct {
	Event, Path, Unified string
	Changes              []string
	From, To             struct {
		entry
		SHA256, Encoding string
	}
	Identical *bool
	First     *int64 `json:"firstDifference"`
	Complete  bool
	Added     int64
	Removed   int64
	Changed   int64
}

func TestSortedEntries(t *testing.T) {
	img, want, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, by := range []string{"name", "size", "time", ""} {
		for _, order := range []string{"asc", "desc"} {
			if by == "" && order == "desc" {
				continue
			}
			var all []entry
			cursor, total := "", 0
			for {
				a := s.get("/api/v1/entries?path=" + disk + "/odd&limit=5&xattrs=1&sort=" + by + "&order=" + order + "&cursor=" + cursor)
				var p struct {
					listed
					Total int
				}
				if err := json.Unmarshal(a.body, &p); err != nil || a.status != 200 || len(p.Entries) > 5 {
					t.Fatalf("%s: %d %v %s", by, a.status, err, a.body)
				}
				all, total = append(all, p.Entries...), p.Total
				if cursor = p.Next; cursor == "" {
					break
				}
			}
			less := func(i, j int) bool {
				a, b := all[i], all[j]
				if order == "desc" {
					a, b = b, a
				}
				switch {
				case by == "size" && a.Size != b.Size:
					return a.Size < b.Size
				case by == "time" && a.Mtime != b.Mtime:
					return a.Mtime < b.Mtime
				}
				return a.bytes() < b.bytes()
			}
			if len(all) != len(oddNames) || by != "" && (total != len(oddNames) || !sort.SliceIsSorted(all, less)) {
				t.Errorf("%s %s: %d entries of %d", by, order, len(all), total)
			}
			for _, e := range all {
				compareEntry(t, "odd/"+e.bytes(), e, want["odd/"+e.bytes()])
			}
		}
	}
	first := s.get("/api/v1/entries?path=" + disk + "/odd&limit=5&sort=name")
	var p listed
	if json.Unmarshal(first.body, &p) != nil || p.Next == "" {
		t.Fatalf("%s", first.body)
	}
	for _, q := range []string{"&sort=size", "&sort=name&order=desc", "", "&sort=time"} {
		s.get("/api/v1/entries?path="+disk+"/odd&cursor="+p.Next+q).problem(t, 400, "bad_cursor")
	}
	s.get("/api/v1/entries?path="+disk+"/etc/hosts").problem(t, 404, "not_a_directory")
	s.get("/api/v1/entries?path="+disk+"&sort=color").problem(t, 400, "bad_parameter")
	s.get("/api/v1/entries?path="+disk+"&order=desc").problem(t, 400, "bad_parameter")
}

// find runs find(1) on the kernel's mount.
func find(t *testing.T, mnt string, args ...string) []string {
	t.Helper()
	out, err := exec.Command("find", append([]string{mnt, "-mindepth", "1"}, append(args, "-printf", "%P\\0")...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	l := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	sort.Strings(l)
	return l
}

// TestSearchEqualsFind: the same conditions give what find gives on the kernel's mount.
func TestSearchEqualsFind(t *testing.T) {
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for query, args := range map[string][]string{
		"":                       nil,
		"name=*.d":               {"-name", "*.d"},
		"name=*O*&ignoreCase=1":  {"-iname", "*o*"},
		"type=directory":         {"-type", "d"},
		"type=symlink&type=file": {"-type", "l,f"},
		"minSize=100&type=file":  {"-type", "f", "-size", "+99c"},
		"maxSize=20&type=file":   {"-type", "f", "-size", "-21c"},
		"after=2001-01-01":       {"-newermt", "2000-12-31 23:59:59.999999999 UTC"},
		"before=1999-01-01":      {"-not", "-newermt", "1999-01-01 UTC"},
		"regex=" + url.QueryEscape(`/odd/[^/]*\s[^/]*$`): {"-path", "*/odd/*", "-not", "-path", "*/odd/*/*", "-regextype", "posix-extended", "-regex", `(.|\n)*/odd/[^/]*[[:space:]][^/]*`},
	} {
		var got []string
		lines := ndjson[searchRow](t, s.get("/api/v1/search?path="+disk+"&"+query))
		for _, l := range lines[:len(lines)-1] {
			p := l.Path
			if l.PathBytes != nil {
				p = string(l.PathBytes)
			}
			got = append(got, strings.TrimPrefix(p, disk+"/"))
		}
		sort.Strings(got)
		want := find(t, mnt, args...)
		if want[0] == "" {
			want = want[1:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d %q\nwant %d %q", query, len(got), got, len(want), want)
		}
		end := lines[len(lines)-1]
		if end.Event != "end" || !end.Complete || end.Matches != int64(len(got)) || end.Errors != 0 {
			t.Errorf("%s: %+v", query, end.searchEnd)
		}
	}
	lines := ndjson[searchRow](t, s.get("/api/v1/search?limit=3"))
	if end := lines[3]; len(lines) != 4 || end.Complete || end.Why == nil || end.Why.Kind != "limit" {
		t.Errorf("limit: %d lines", len(lines))
	}
	for _, q := range []string{"name=[", "regex=(", "type=x", "minSize=-1", "after=yesterday", "named=x", "backup=b9", "regex=" + strings.Repeat("a", 1001)} {
		if a := s.get("/api/v1/search?" + q); a.status != 400 && a.status != 404 {
			t.Errorf("%s: %d", q, a.status)
		}
	}
}

// TestSearchAcrossBackups: each backup once, identical files grouped on request.
func TestSearchAcrossBackups(t *testing.T) {
	s := start(t, openBackups(t, threeBackups(t)...), nil)
	count := func(q string) (n, same int) {
		lines := ndjson[searchRow](t, s.get("/api/v1/search?"+q))
		for _, l := range lines[:len(lines)-1] {
			n++
			same += len(l.Same)
		}
		return n, same
	}
	if n, _ := count("name=file-00*.conf"); n != 29 {
		t.Errorf("%d matches, want 29", n)
	}
	if n, _ := count("name=file-00*.conf&backup=b3&backup=b1"); n != 19 {
		t.Errorf("%d matches in two backups, want 19", n)
	}
	if n, same := count("name=file-00*.conf&group=1"); n != 11 || same != 18 {
		t.Errorf("%d groups with %d more, want 11 and 18", n, same)
	}
}

func TestVersions(t *testing.T) {
	s := start(t, openBackups(t, threeBackups(t)...), nil)
	get := func(path string) []*version {
		a := s.get("/api/v1/versions?path=root/" + path)
		var v struct{ Versions []*version }
		if err := json.Unmarshal(a.body, &v); err != nil || a.status != 200 {
			t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
		return v.Versions
	}
	for path, want := range map[string]string{
		"text":              "[b1 b2] present [] | [b3] present [time content]",
		"etc/file-000.conf": "[b1 b2 b3] present []",
		"etc/file-007.conf": "[b1 b2] present [] | [b3] absent [absent]",
		"etc/file-008.conf": "[b1 b2] present [] | [b3] present [time]",
		"new/file":          "[b1 b2] absent [] | [b3] present [appeared]",
		"rel":               "[b1 b2] present [] | [b3] present [type time mode target]",
		"etc/hosts":         "[b1 b2] present [] | [b3] present [owner]",
		"nothing":           "[b1 b2 b3] absent []",
	} {
		var parts []string
		for _, v := range get(path + "&hash=1") {
			parts = append(parts, fmt.Sprint(v.Backups, " ", v.State, " ", v.Changes))
			if v.State == "present" && v.Entry.Type == "file" && len(v.SHA256) != 64 {
				t.Errorf("%s: no hash", path)
			}
		}
		got := strings.Join(parts, " | ")
		if strings.Contains(want, "time content") { // "drei" is one byte shorter
			want = strings.Replace(want, "[time content]", "[size time content]", 1)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestDiff(t *testing.T) {
	images := threeBackups(t)
	s := start(t, openBackups(t, images...), nil)
	one, three := fixture.Mount(t, images[0], "ext4", "ro,noload", 0, 0), fixture.Mount(t, images[2], "ext4", "ro,noload", 0, 0)
	q := func(a, b string) string { return "/api/v1/diff?from=/backups/b1/root" + a + "&to=/backups/b3/root" + b }

	// patch(1) makes the second file of the first.
	a := s.get(q("/text", "/text"), "Accept: text/x-diff")
	if a.header.Get("Content-Type") != "text/x-diff; charset=utf-8" {
		t.Fatalf("%v %s", a.header, a.body)
	}
	fixture.Need(t, "patch")
	dir := t.TempDir()
	fixture.Run(t, "cp", one+"/text", dir+"/text")
	writeFile(t, dir+"/p", a.body)
	fixture.Run(t, "patch", "-s", dir+"/text", dir+"/p")
	if sumFile(t, dir+"/text") != sumFile(t, three+"/text") {
		t.Errorf("patch makes something else:\n%s", a.body)
	}

	l := ndjson[diffRow](t, s.get(q("/big.bin", "/big.bin")))[0]
	if l.Event != "binary" || !*l.Identical || l.First != nil || l.From.SHA256 != sumFile(t, one+"/big.bin") {
		t.Errorf("equal files: %+v", l)
	}
	l = ndjson[diffRow](t, s.get(q("/big.bin", "/sparse")))[0]
	cmp, _ := exec.Command("cmp", one+"/big.bin", three+"/sparse").Output()
	m := regexp.MustCompile(`byte (\d+),`).FindSubmatch(cmp)
	if l.Event != "binary" || *l.Identical || m == nil || fmt.Sprint(*l.First+1) != string(m[1]) || l.To.SHA256 != sumFile(t, three+"/sparse") {
		t.Errorf("%+v, cmp says %s", l, cmp)
	}
	l = ndjson[diffRow](t, s.get(q("/text", "/utf16")))[0]
	if l.Event != "text" || l.To.Encoding != "utf-16" || !strings.Contains(l.Unified, "+hi") {
		t.Errorf("utf-16: %+v", l)
	}
	s.get(q("/text", "/etc")).problem(t, 400, "not_comparable")

	got := map[string]string{}
	lines := ndjson[diffRow](t, s.get(q("", "")+"&content=1"))
	for _, l := range lines {
		got[l.Path] = fmt.Sprint(l.Event, l.Changes)
	}
	for path, want := range map[string]string{
		"etc": "changed[mode]", "etc/file-007.conf": "removed[]", "etc/file-008.conf": "changed[time]", "new": "added[]", "new/file": "added[]",
		"text": "changed[size time content]", "utf16": "added[]", "hardlink": "changed[owner]", "etc/hosts": "changed[owner]", "rel": "changed[type time mode target]", "": "end[]",
	} {
		if got[path] != want {
			t.Errorf("%s: %s, want %s", path, got[path], want)
		}
	}
	if end := lines[len(lines)-1]; len(lines) != 11 || !end.Complete || end.Added != 3 || end.Removed != 1 || end.Changed != 6 {
		t.Errorf("%d lines, %+v %v", len(lines), end, got)
	}
}

func TestChecksumAndManifest(t *testing.T) {
	img, want, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for algorithm, tool := range map[string]string{"sha256": "sha256sum", "sha512": "sha512sum", "blake3": "b3sum"} {
		var c struct{ Checksum string }
		a := s.get("/api/v1/checksum?path=" + disk + "/big.bin&algorithm=" + algorithm)
		fixture.Need(t, tool)
		out := fixture.Run(t, tool, filepath.Join(mnt, "big.bin"))
		if json.Unmarshal(a.body, &c) != nil || !strings.HasPrefix(out, c.Checksum+" ") {
			t.Errorf("%s: %s, want %s", algorithm, a.body, out)
		}
	}
	list := filepath.Join(t.TempDir(), "list")
	s.mustCurl("--fail", "-o", list, s.url("/api/v1/manifest?path="+disk))
	cmd := exec.Command("sha256sum", "-c", "--strict", "--quiet", list)
	cmd.Dir = mnt
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	files := countFiles(want)
	if got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"); len(got) != files+1 || !strings.HasPrefix(got[files], fmt.Sprintf("# end: %d files, ", files)) {
		t.Errorf("%d lines for %d files, the last: %s", len(got), files, got[len(got)-1])
	}
	// The check can fail.
	writeFile(t, list, bytes.Replace(b, []byte("a"), []byte("b"), 1))
	cmd = exec.Command("sha256sum", "-c", "--quiet", list)
	cmd.Dir = mnt
	if cmd.Run() == nil {
		t.Error("sha256sum takes a wrong digest")
	}
	s.get("/api/v1/checksum?path="+disk+"/etc").problem(t, 400, "is_a_directory")
	s.get("/api/v1/manifest?path="+disk+"/etc/hosts").problem(t, 404, "not_a_directory")
	s.get("/api/v1/checksum?path="+disk+"/etc/hosts&algorithm=md5").problem(t, 400, "bad_parameter")
}

func countFiles(m fsystest.Manifest) int {
	n := 0
	for _, e := range m {
		if e.Mode&fsys.ModeFmt == fsys.ModeRegular {
			n++
		}
	}
	return n
}

func TestDownloadNames(t *testing.T) {
	for name, want := range map[string]string{
		"plain.txt":      `attachment; filename="plain.txt"`,
		"a b.txt":        `attachment; filename="a b.txt"; filename*=UTF-8''a%20b.txt`,
		"ünï.txt":        `attachment; filename="_n_.txt"; filename*=UTF-8''%C3%BCn%C3%AF.txt`,
		"a\"\r\nX: y":    `attachment; filename="a___X_ y"; filename*=UTF-8''a___X_%20y`,
		"\u202egnp.exe":  `attachment; filename="_gnp.exe"`,
		"\xff\x00.bin":   `attachment; filename="__.bin"`,
		`..\..\evil.exe`: `attachment; filename=".._.._evil.exe"`,
		"100%.txt":       `attachment; filename="100_.txt"; filename*=UTF-8''100%25.txt`,
	} {
		if got := disposition(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	dir := t.TempDir()
	cmd := exec.Command("curl", "-q", "-sS", "--fail", "--cacert", s.caFile, "-u", testUser+":"+testPassword, "-OJ", s.url("/files"+disk+"/odd/a+b%20c?download=1"))
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "a+b c")); err != nil {
		t.Error(err)
	}
	if a := s.get("/files" + disk + "/etc/hosts?stream=none"); a.status < 400 {
		t.Errorf("a stream of ext4: %d", a.status)
	}
	_ = http.StatusOK
}
