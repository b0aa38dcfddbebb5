package shellwords

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// folder lists a folder of this machine below root.
func folder(root string) List {
	return func(dir string, yield func(string) bool) error {
		f, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return err
		}
		for _, e := range f {
			if !yield(e.Name()) {
				break
			}
		}
		return nil
	}
}

// TestAgainstShell compares with what sh(1) hands to a program.
func TestAgainstShell(t *testing.T) {
	root := t.TempDir()
	for _, n := range []string{"a b", "c*d", "cxd", ".hidden", "bad\xff\xfename", "ünï", "sub/one.txt", "sub/two.txt", "sub/.three.txt", "s2/one.txt", "q'uote", "x[1]", "x1"} {
		p := filepath.Join(root, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		`scp -f a`, `scp  -f	a\ b`, `'a b' "c d" e\"f`, `"a\$b\"c\\d\e"`, `a'b'"c"d`, `''`, `""`, `x '' y`, `*`, `s*/*.txt`, `sub/.*.txt`, `sub/*`, `'*'`, `\*`, `c\*d`,
		`"c*d"`, `c"*"d`, `c*d`, `bad*`, "bad\xff*", "'bad\xff\xfename'", `x[1]`, `x\[1\]`, `x[!2]`, `nothing*`, `'no*'`, `s*/one.txt`, `s*/nothing`, `ün?`, `./s*`, `s*/`, `q\'uote`, `'q'\''uote'`,
		`a\` + "\n" + `b`, `'new` + "\n" + `line'`, `rsync --server --sender -logDtpre.iLsfxCIvu . /backups/b\ c/d /x\ y\'z`, `a#b`, `.h*`, `[`, `a]`, `sub/[`,
	} {
		got, err := Split(line, folder(root))
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		cmd := exec.Command("sh", "-c", `printf '%s\0' `+line)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		if strings.Contains(line, "ün?") { // dash compares bytes
			want = []string{"ünï"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got  %q\n want %q", line, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, line := range []string{
		`a $(id)`, "a `id`", `a $HOME`, `"$(id)"`, "\"`id`\"", `"$x"`, `a; id`, `a && id`, `a | id`, `a > b`, `a < b`, `a &`, `(a)`, `'open`, `"open`, `$((1+1))`, "a\x00b",
		strings.Repeat("x", MaxCommand+1),
	} {
		if w, err := Split(line, nil); err == nil {
			t.Errorf("%q gives %q", line, w)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %q", line, err)
		}
	}
	// Braces are no patterns: they could stand for any number of words.
	if w, err := Split(`{1..1000000000} a{b,c}`, nil); err != nil || len(w) != 2 {
		t.Errorf("%q, %v", w, err)
	}
}

func TestHome(t *testing.T) {
	got, err := Split(`~ ~/x '~' a~ ~user`, nil)
	if want := []string{"/", "/x", "~", "a~", "~user"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLimits(t *testing.T) {
	many := func(n int) List {
		return func(_ string, yield func(string) bool) error {
			for i := range n {
				if !yield(fmt.Sprint(i)) {
					break
				}
			}
			return nil
		}
	}
	if w, err := Split("*", many(MaxWords)); err != nil || len(w) != MaxWords {
		t.Errorf("%d words, %v", len(w), err)
	}
	if _, err := Split("*", many(MaxWords+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
	if _, err := Split("x*", many(maxCompared+1)); !errors.Is(err, errCompared) {
		t.Errorf("%v", err)
	}
	if _, err := Split("*/*/*/*/*", many(100)); err == nil {
		t.Error("a pattern of patterns has no limit")
	}
}

func TestExpand(t *testing.T) {
	list := func(_ string, yield func(string) bool) error {
		_ = yield("a b") && yield("c*d") && yield("cxd")
		return nil
	}
	got, err := Expand([]string{"/a b", "/a*", `/c\*d*`, "/c*", `/c\*d`, `/\[x]/b\\\?`, "$(id) 'x", `back\slash`, ""}, list)
	want := []string{"/a b", "/a b", "/c*d", "/c*d", "/cxd", "/c*d", `/[x]/b\?`, "$(id) 'x", `back\slash`, ""}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{`scp -f a\ b`, `'x' "y" z*`, "bad\xff", "\U0010ff41", `~/x`, `$(id)`, `a[b-`, `[[:alpha:]]*`, "a\r\nb", "a\u0080b", "t\xc2\u0081"} {
		f.Add(s)
	}
	list := func(_ string, yield func(string) bool) error {
		_ = yield("one") && yield("t\xffwo") && yield(".three")
		return nil
	}
	f.Fuzz(func(t *testing.T, s string) {
		if decode(encode(s)) != s {
			t.Fatalf("%q becomes %q", s, decode(encode(s)))
		}
		_, _ = Split(s, list)
		w, err := Split("'"+strings.ReplaceAll(strings.ReplaceAll(s, "'", `'\''`), "\x00", "")+"'", list)
		if err == nil && (len(w) != 1 || w[0] != strings.ReplaceAll(s, "\x00", "")) {
			t.Fatalf("quoted %q becomes %q", s, w)
		}
		_, _ = Expand([]string{s}, list)
	})
}
