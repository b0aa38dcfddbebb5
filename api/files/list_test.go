package files

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"vmfr/test/fixture"
)

// TestLargeFolder pages through 20,000 entries and compares them with the kernel's listing.
func TestLargeFolder(t *testing.T) {
	const n = 20000
	fixture.NeedRoot(t)
	// The kernel makes the folder: mke2fs -d would search all names for each new one.
	img := fixture.Ext4(t, "", 64<<20, "-N", "24000")
	mnt := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	if err := os.Mkdir(filepath.Join(mnt, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		f, err := os.Create(filepath.Join(mnt, "many", fmt.Sprintf("file-%05d", i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	fixture.Unmount(t, mnt)
	mnt = fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	want, err := os.ReadDir(filepath.Join(mnt, "many"))
	if err != nil || len(want) != n {
		t.Fatalf("%d entries, %v", len(want), err)
	}
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, limit := range []int{777, 1000, maxLimit} {
		got := map[string]int{}
		for _, e := range s.listAll(s.client(false), "/files"+disk+"/many", limit) {
			got[e.Name]++
		}
		for _, d := range want {
			if got[d.Name()] != 1 {
				t.Fatalf("limit %d: %s is there %d times", limit, d.Name(), got[d.Name()])
			}
		}
		if len(got) != n {
			t.Errorf("limit %d: %d entries", limit, len(got))
		}
	}
	var first listed
	if a := s.get("/files"+disk+"/many", "Accept: text/plain;q=0.5, application/json"); json.Unmarshal(a.body, &first) != nil || len(first.Entries) != defaultLimit || first.Next == "" {
		t.Errorf("default page: %d entries, next %q", len(first.Entries), first.Next)
	}
	// The cursor works on another server with the same input, as after a restart.
	other := start(t, openTree(t, map[string]string{"root": img}), nil)
	var p, q listed
	a, b := s.get("/files"+disk+"/many?list=1&limit=5&cursor="+first.Next), other.get("/files"+disk+"/many?list=1&limit=5&cursor="+first.Next)
	if json.Unmarshal(a.body, &p) != nil || json.Unmarshal(b.body, &q) != nil || len(p.Entries) != 5 || p.Entries[0].Name != q.Entries[0].Name {
		t.Errorf("the cursor does not survive a restart: %s %s", a.body, b.body)
	}
	// People get the pages as links.
	page := string(s.get("/files" + disk + "/many?limit=10").body)
	_, rest, ok := strings.Cut(page, `<a href="/files`+disk+`/many/?limit=10&amp;cursor=`)
	if !ok || strings.Count(page, "<tr>") != 11 {
		t.Fatalf("page: %s", page)
	}
	cursor, _, _ := strings.Cut(rest, `"`)
	if page := string(s.get("/files" + disk + "/many/?limit=10&cursor=" + cursor).body); strings.Count(page, "<tr>") != 11 {
		t.Errorf("second page: %s", page)
	}
}

func TestListingIsRefused(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	var p listed
	if a := s.get("/files" + disk + "/odd?list=1&limit=1"); json.Unmarshal(a.body, &p) != nil || p.Next == "" {
		t.Fatal(string(a.body))
	}
	for _, c := range []string{"x", "AAAA", p.Next[:len(p.Next)-1], p.Next + "A", "B" + p.Next[1:], strings.Repeat("A", 32)} {
		s.get("/files"+disk+"/odd?list=1&cursor="+c).problem(t, 400, "bad_cursor")
	}
	s.get("/files"+disk+"/odd-dirs?list=1&cursor="+p.Next).problem(t, 400, "bad_cursor")
	for _, l := range []string{"0", "-1", "10001", "x", "99999999999999999999"} {
		s.get("/files"+disk+"/odd?list=1&limit="+l).problem(t, 400, "bad_limit")
	}
}

// attribute is how html/template writes an attribute.
var attribute = strings.NewReplacer("&", "&amp;", "+", "&#43;")

// TestPageIsHarmless: names full of markup come out as text, and links lead where they say.
func TestPageIsHarmless(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	a := s.get("/files" + disk + "/odd/")
	page := string(a.body)
	if a.header.Get("Content-Security-Policy") != pagePolicy || a.header.Get("Cache-Control") != noStore || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%v", a.header)
	}
	if strings.Contains(page, "<script") || strings.ContainsAny(page, "\x01\x1b\u202e") || !utf8.ValidString(page) {
		t.Errorf("the page holds guest bytes as they are: %q", page)
	}
	for _, n := range oddNames {
		if !strings.Contains(page, `<a href="`+attribute.Replace(fileURL(append(strings.Split(disk[1:], "/"), "odd", n), false))+`">`) {
			t.Errorf("no link for %q", n)
		}
	}
	for _, want := range []string{`latin1-\xe9\xff`, `new\nline`, `\u202egnp.exe`, "&lt;script&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if page := string(s.get("/files" + disk + "/").body); !strings.Contains(page, "bad-\\xff\\xfe") || !strings.Contains(page, "&rarr;") {
		t.Error("links are shown without their targets")
	}
	if !strings.Contains(page, "<style>"+style+"</style>") {
		t.Error("the style sheet is not the one that the policy allows")
	}
}

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{"a b": "a b", "\xff": `\xff`, "\x00\n": `\x00\n`, "é\u202e": "é\\u202e", "\uFFFD": "\uFFFD", "\xef\xbf": `\xef\xbf`} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	img, _, _ := guest(t)
	bad := filepath.Join(t.TempDir(), "bad.raw")
	fixture.Sparse(t, bad, 1<<20)
	s := start(t, openTree(t, map[string]string{"root": img, "data": bad}), nil)
	var r struct {
		Program string
		Disks   map[string]int
		Backups []struct {
			Name  string
			Disks []struct{ Name, State, Path, Error string }
		}
	}
	a := s.get("/api/v1/backups")
	if err := json.Unmarshal(a.body, &r); err != nil || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != noStore {
		t.Fatalf("%v %s", err, a.body)
	}
	if r.Program != "vmfr test" || r.Disks["readable"] != 1 || r.Disks["unreadable"] != 1 || len(r.Backups) != 1 ||
		r.Backups[0].Disks[1].State != "readable" || r.Backups[0].Disks[0].Error == "" {
		t.Errorf("%s", a.body)
	}
	if a := s.get("/files/backups/nightly/data/ERROR.txt"); a.status != 200 || !strings.Contains(string(a.body), "What to do") {
		t.Errorf("ERROR.txt: %d %s", a.status, a.body)
	}
	if a := s.get("/"); a.status != 302 || a.header.Get("Location") != "/files/" {
		t.Errorf("/: %d %v", a.status, a.header)
	}
}
