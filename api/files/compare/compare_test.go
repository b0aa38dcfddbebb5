package compare_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vmfr/agent/tree"
	"vmfr/api/files/compare"
	"vmfr/api/files/limit"
	"vmfr/test/faketree"
	"vmfr/test/fixture"
)

func TestText(t *testing.T) {
	for name, c := range map[string]struct{ in, text, encoding string }{
		"ascii": {"a\n", "a\n", "utf-8"}, "utf-8": {"größe", "größe", "utf-8"}, "nothing": {"", "", "utf-8"}, "controls": {"\x1b[31m", "\x1b[31m", "utf-8"},
		"utf-16 little": {"\xff\xfeg\x00\xf6\x00", "gö", "utf-16"}, "utf-16 big": {"\xfe\xff\x00g\x00\xf6", "gö", "utf-16"}, "surrogates": {"\xff\xfe\x3d\xd8\x00\xde", "😀", "utf-16"},
		"half a surrogate": {"\xff\xfe\x3d\xd8", "\ufffd", "utf-16"}, "mark only": {"\xff\xfe", "", "utf-16"},
		"not utf-8": {"a\xff", "", ""}, "a zero": {"a\x00b", "", ""}, "a zero in utf-16": {"\xff\xfea\x00\x00\x00", "", ""}, "utf-16 without a mark": {"a\x00b\x00", "", ""},
	} {
		if text, encoding := compare.Text([]byte(c.in)); text != c.text || encoding != c.encoding {
			t.Errorf("%s: %q %q, want %q %q", name, text, encoding, c.text, c.encoding)
		}
	}
}

func TestUnified(t *testing.T) {
	for name, c := range map[string]struct{ a, b, want string }{
		"equal":         {"a\nb\n", "a\nb\n", ""},
		"one line":      {"a\nb\nc\n", "a\nX\nc\n", "--- f\n+++ t\n@@ -1,3 +1,3 @@\n a\n-b\n+X\n c\n"},
		"added":         {"", "a\n", "--- f\n+++ t\n@@ -0,0 +1 @@\n+a\n"},
		"removed":       {"a\n", "", "--- f\n+++ t\n@@ -1 +0,0 @@\n-a\n"},
		"no last line":  {"a", "a\n", "--- f\n+++ t\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		"returns count": {"a\r\n", "a\n", "--- f\n+++ t\n@@ -1 +1 @@\n-a\r\n+a\n"},
	} {
		if got, ok := compare.Unified("f", "t", c.a, c.b); !ok || got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if _, ok := compare.Unified("f", "t", strings.Repeat("\n", 200_001), "x"); ok {
		t.Error("a text of too many lines is compared")
	}
}

// TestPatch: patch makes the second of the first, for texts in which lines repeat, move and vanish.
func TestPatch(t *testing.T) {
	fixture.Need(t, "patch")
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 40 {
		var a []string
		for range rng.IntN(60) {
			a = append(a, fmt.Sprintf("line %d\n", rng.IntN(20+round*20)))
		}
		b := slices.Clone(a)
		for range rng.IntN(12) {
			switch i := rng.IntN(len(b) + 1); {
			case i < len(b) && rng.IntN(2) == 0:
				b = slices.Delete(b, i, i+1)
			default:
				b = slices.Insert(b, i, fmt.Sprintf("new %d\n", rng.IntN(5)))
			}
		}
		from, to := strings.Join(a, ""), strings.Join(b, "")
		diff, ok := compare.Unified("x", "x", from, to)
		if !ok || (diff == "") != (from == to) {
			t.Fatalf("%q, %q: %v %q", from, to, ok, diff)
		}
		if diff == "" {
			continue
		}
		path := filepath.Join(dir, "x")
		if err := os.WriteFile(path, []byte(from), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "-s", "--posix", path)
		cmd.Stdin = strings.NewReader(diff)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, diff)
		}
		got, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // patch removes what became empty
			t.Fatal(err)
		}
		if string(got) != to {
			t.Fatalf("%q, want %q\n%s", got, to, diff)
		}
	}
}

// TestHard: texts that are hard to compare take a bounded time.
func TestHard(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	lines := func(n, kinds int) string {
		var b strings.Builder
		for range n {
			fmt.Fprintf(&b, "%d\n", rng.IntN(kinds))
		}
		return b.String()
	}
	for name, kinds := range map[string]int{"nothing in common": 1 << 30, "two kinds": 2, "a hundred kinds": 100} {
		start := time.Now()
		if _, ok := compare.Unified("f", "t", lines(20_000, kinds), lines(20_000, kinds)); !ok {
			t.Errorf("%s: not compared", name)
		}
		if took := time.Since(start); took > 20*time.Second { // a quadratic search takes hours
			t.Errorf("%s: %v", name, took)
		}
	}
}

func file(size int64) *faketree.Node { return faketree.File(size, time.Unix(0, 0)) }

// folders compares two folders of one tree and returns what each was asked about.
func folders(t *testing.T, from, to *faketree.Node, change func(*compare.Folders)) (pairs []string, err error) {
	t.Helper()
	tr := faketree.New(t, faketree.Dir(faketree.Child{Name: "from", Node: from}, faketree.Child{Name: "to", Node: to}))
	f := compare.Folders{Tree: tr, Each: func(p compare.Pair) error {
		text := p.Path
		for _, s := range []*compare.Side{p.From, p.To} {
			switch {
			case s == nil:
				text += " -"
			case s.Err != nil:
				text += " !" + s.Err.Error()
			case s.Attr.IsDir():
				text += " d"
			default:
				text += fmt.Sprintf(" %d", s.Attr.Size)
			}
		}
		pairs = append(pairs, text)
		return nil
	}}
	if change != nil {
		change(&f)
	}
	err = f.Run(t.Context(), faketree.Find(t, tr, "from"), faketree.Find(t, tr, "to"))
	return pairs, err
}

func TestFolders(t *testing.T) {
	type c = faketree.Child
	torn, bad := faketree.Dir(), file(3)
	torn.ListErr, bad.Err = errors.New("torn"), errors.New("bad")
	from := faketree.Dir(c{Name: "gone", Node: faketree.Dir(c{Name: "x", Node: file(1)})}, c{Name: "same", Node: file(2)}, c{Name: "bad", Node: bad}, c{Name: "kind", Node: file(4)},
		c{Name: "sub", Node: faketree.Dir(c{Name: "b", Node: file(5)}, c{Name: "a", Node: file(6)})}, c{Name: "torn", Node: torn})
	to := faketree.Dir(c{Name: "same", Node: file(2)}, c{Name: "bad", Node: file(3)}, c{Name: "new", Node: file(8)}, c{Name: "kind", Node: faketree.Dir(c{Name: "in", Node: file(9)})},
		c{Name: "sub", Node: faketree.Dir(c{Name: "a", Node: file(7)}, c{Name: "c", Node: file(5)})}, c{Name: "torn", Node: faketree.Dir(c{Name: "only", Node: file(1)})})
	got, err := folders(t, from, to, nil)
	want := []string{"bad !bad 3", "gone d -", "gone/x 1 -", "kind 4 d", "kind/in - 9", "new - 8", "same 2 2", "sub d d", "sub/a 6 7", "sub/b 5 -", "sub/c - 5",
		"torn d d", "torn !torn d"} // and not that torn/only was added
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v\nwant %q", got, err, want)
	}
	progress := 0
	if _, err := folders(t, from, to, func(f *compare.Folders) { f.Progress = func() { progress++ } }); err != nil || progress != 12 {
		t.Errorf("told %d times of progress, %v", progress, err)
	}
}

func TestFoldersEnd(t *testing.T) {
	loop := faketree.Dir(faketree.Child{Name: "f", Node: file(1)})
	loop.Children = append(loop.Children, faketree.Child{Name: "self", Node: loop})
	got, err := folders(t, loop, loop, nil)
	if err != nil || len(got) != 3 || !strings.Contains(strings.Join(got, "|"), "contains itself") {
		t.Errorf("a loop: %q, %v", got, err)
	}
	deep := faketree.Dir()
	for range 5000 {
		deep = faketree.Dir(faketree.Child{Name: "d", Node: deep})
	}
	if got, err := folders(t, deep, faketree.Dir(), nil); err != nil || !strings.Contains(got[len(got)-1], "folders in each other") {
		t.Errorf("too deep: %d pairs, %v", len(got), err)
	}
	var wide []faketree.Child
	for i := range 1000 {
		wide = append(wide, faketree.Child{Name: fmt.Sprint(i), Node: file(1)})
	}
	m := limit.NewMemory(10 << 10)
	if got, err := folders(t, faketree.Dir(wide...), faketree.Dir(), func(f *compare.Folders) { f.Memory = m.Account() }); err != nil || len(got) != 1 || !strings.Contains(got[0], "used up") {
		t.Errorf("no memory: %.200q, %v", got, err)
	}
	stop := errors.New("enough")
	if _, err := folders(t, faketree.Dir(wide...), faketree.Dir(), func(f *compare.Folders) { f.Each = func(compare.Pair) error { return stop } }); !errors.Is(err, stop) {
		t.Errorf("the caller's error: %v", err)
	}
	if got, err := folders(t, faketree.Dir(wide...), faketree.Dir(), func(f *compare.Folders) { f.Await = func(tree.Node) error { return stop } }); err != nil || len(got) != 1 || !strings.Contains(got[0], "enough") {
		t.Errorf("not waited for: %.200q, %v", got, err)
	}
	tr := faketree.New(t, faketree.Dir(wide...))
	ctx, leave := context.WithCancel(t.Context())
	leave()
	f := compare.Folders{Tree: tr, Each: func(compare.Pair) error { return nil }}
	if err := f.Run(ctx, faketree.Find(t, tr, ""), faketree.Find(t, tr, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
}
