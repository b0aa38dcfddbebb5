package web

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"vmfr/test/fixture"
)

// TestTexts: every text that is used is there, and every one that is there is used.
func TestTexts(t *testing.T) {
	all, err := loadTexts(embedded)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	var code []byte
	for _, glob := range []string{"templates/*.html", "*.go", "static/app.js"} {
		out, err := exec.Command("bash", "-c", "cat "+glob).Output()
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, out...)
	}
	for _, m := range regexp.MustCompile(`(?:\bt |texts\.get\()"([a-z0-9.]+)"`).FindAllSubmatch(code, -1) {
		used[string(m[1])] = true
	}
	for _, m := range regexp.MustCompile(`say\((?:e\.name === "AbortError" \? )?"(\w+)"(?: : "(\w+)")?`).FindAllSubmatch(code, -1) {
		used["js."+string(m[1])] = true
		if len(m[2]) > 0 {
			used["js."+string(m[2])] = true
		}
	}
	for _, m := range regexp.MustCompile(`key = "(\w+)"`).FindAllSubmatch(code, -1) {
		used["js."+string(m[1])] = true
	}
	families := regexp.MustCompile(`printf "([a-z]+)\.%s"`).FindAllSubmatch(code, -1)
	for key := range used {
		if _, ok := all[key]; !ok {
			t.Errorf("the text %q is missing", key)
		}
	}
	for key := range all {
		family := slices.ContainsFunc(families, func(m [][]byte) bool { return strings.HasPrefix(key, string(m[1])+".") })
		if !used[key] && !family {
			t.Errorf("the text %q is not used", key)
		}
	}
}

var awkward = []string{
	"plain", "", "a b", "it's", `"`, "$x", "`id`", "a\nb", "\x1b[31m", "\xff\xfe1", "\u202egpj", "-rf", "*?[x]", `back\slash`, "a;b&c|d", "!h", "~", "#x", "é", "tab\t", "\x7f7",
	"\ufffd", "{a,b}", "%s", "\u2028", `\n`, "$'x'",
}

// TestShellQuote: a shell takes a line for exactly the arguments that it was made of, and the line
// itself is printable.
func TestShellQuote(t *testing.T) {
	for _, shell := range []string{"bash"} {
		fixture.Need(t, shell)
		line := shellLine(append([]string{"printf", `%s\0`}, awkward...))
		if strings.ContainsAny(line, "\n\x1b\x7f\u202e\u2028") {
			t.Errorf("not printable: %q", line)
		}
		out, err := exec.Command(shell, "-c", line).Output()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if !slices.Equal(got, awkward) {
			t.Errorf("%s reads %q, want %q", shell, got, awkward)
		}
	}
}

func TestDetect(t *testing.T) {
	wide := func(s string, big bool) (b []byte) {
		for _, u := range utf16.Encode([]rune(s)) {
			if big {
				b = append(b, byte(u>>8), byte(u))
			} else {
				b = append(b, byte(u), byte(u>>8))
			}
		}
		return b
	}
	for name, c := range map[string]struct {
		in   []byte
		cut  bool
		want *textEncoding
		text string
	}{
		"empty":           {nil, false, utf8Text, ""},
		"ascii":           {[]byte("a\nb"), false, utf8Text, "a\nb"},
		"utf-8 mark":      {[]byte("\xef\xbb\xbfé"), false, utf8Text, "é"},
		"utf-8 cut":       {[]byte("aé\xc3"), true, utf8Text, "aé\xc3"},
		"utf-8 not whole": {[]byte("aé\xc3"), false, latin1, "aÃ©Ã"},
		"le mark":         {append([]byte{0xff, 0xfe}, wide("Größe", false)...), false, utf16le, "Größe"},
		"be mark":         {append([]byte{0xfe, 0xff}, wide("日本", true)...), false, utf16be, "日本"},
		"le":              {wide("Windows", false), false, utf16le, "Windows"},
		"be":              {wide("Windows", true), false, utf16be, "Windows"},
		"latin1":          {[]byte("caf\xe9"), false, latin1, "café"},
		"elf":             {[]byte("\x7fELF\x02\x01\x01\x00\x00\x00"), false, nil, ""},
		"pdf":             {[]byte("%PDF-1.4\n\x00\x01"), false, nil, ""},
		"controls":        {bytes.Repeat([]byte{1, 2, 3}, 99), false, nil, ""},
		"mark and binary": {append([]byte{0xff, 0xfe}, bytes.Repeat([]byte{0, 0, 1, 0}, 99)...), false, nil, ""},
	} {
		got := detect(c.in, c.cut)
		if got != c.want {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		if got != nil && got.decode(c.in) != c.text {
			t.Errorf("%s: %q", name, got.decode(c.in))
		}
	}
}

// TestPieces: a text that is read in pieces loses nothing between them.
func TestPieces(t *testing.T) {
	for _, e := range []*textEncoding{utf8Text, utf16le, utf16be, latin1} {
		for _, text := range []string{strings.Repeat("zeile mit \u010a\n", 100), strings.Repeat("é", 500)} {
			b := []byte(text)
			if e.enc != nil {
				var err error
				if b, err = e.enc.NewEncoder().Bytes([]byte(strings.ReplaceAll(text, "\u010a", "x"))); err != nil {
					t.Fatal(err)
				}
			}
			var got []byte
			var lines string
			for at := 0; at < len(b); {
				piece := b[at:min(at+101, len(b))]
				n := e.end(piece, at+len(piece) < len(b))
				if n <= 0 || n > len(piece) {
					t.Fatalf("%s: a piece of %d bytes ends at %d", e.Name, len(piece), n)
				}
				got, lines = append(got, piece[:n]...), lines+e.decode(piece[:n])
				at += n
			}
			if !bytes.Equal(got, b) || strings.Contains(lines, "\ufffd") || lines != e.decode(b) {
				t.Errorf("%s: the pieces are not the text: %.80q", e.Name, lines)
			}
		}
	}
}

func TestSideBySide(t *testing.T) {
	rows, cut := sideBySide("--- a\n+++ b\n@@ -1,4 +1,4 @@\n one\n-two\n-three\n+zwei\n four\n+five\n@@ -9 +9 @@\n-x\n+y\n", 100)
	want := []diffRow{{"same", 1, 1, "one", "one"}, {"changed", 2, 2, "two", "zwei"}, {"removed", 3, 0, "three", ""}, {"same", 4, 3, "four", "four"}, {"added", 0, 4, "", "five"},
		{Kind: "gap"}, {"changed", 9, 9, "x", "y"}}
	if cut || !slices.Equal(rows, want) {
		t.Errorf("%+v", rows)
	}
	if rows, cut := sideBySide("@@ -1 +1 @@\n"+strings.Repeat("-x\n", 50), 10); !cut || len(rows) > 11 {
		t.Errorf("%d rows, %v", len(rows), cut)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[[2]string]string{
		{"file", "0644"}: "-rw-r--r--", {"directory", "1777"}: "drwxrwxrwt", {"file", "4755"}: "-rwsr-xr-x", {"file", "6640"}: "-rwSr-S---", {"symlink", "0777"}: "lrwxrwxrwx", {"unknown", ""}: "",
	} {
		if got := permissions(in[0], in[1]); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]int64{"": -1, "10": 10, "10k": 10240, "2 MiB": 2 << 20, "1gb": 1 << 30} {
		if got, err := bytesOf(in); got != want || err != nil {
			t.Errorf("%q: %d %v", in, got, err)
		}
	}
	for _, bad := range []string{"x", "-1", "M", "9999999999T", "B"} {
		if n, err := bytesOf(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
	if got := string(name("a<b>\u202e\n")); got != `<bdi>a&lt;b&gt;<span class="esc">\u202e</span><span class="esc">\n</span></bdi>` {
		t.Error(got)
	}
}

// TestColour: colours change no character, and a lexer that takes too long or fails costs only them.
func TestColour(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"package x\n\nvar a = `b\nc` // <i>\n", "no end", "\r\n\r\n", strings.Repeat("((((", 20000), strings.Repeat(strings.Repeat("(", 1990)+"\n", 30), strings.Repeat("<a b='\\\"", 6000), strings.Repeat("/*\"'`\n", 9000), "a\x00b\u202e\n"} {
		for _, file := range []string{"x.go", "x.py", "x.html", "Makefile", "x"} {
			from := time.Now()
			p, used := s.preview(file, []byte(text), utf8Text, false)
			if took := time.Since(from); took > 10*colourTime {
				t.Errorf("%s: %.20q took %v", file, text, took)
			}
			var b strings.Builder
			for _, l := range p.Lines {
				b.WriteString(regexp.MustCompile(`</?span[^>]*>`).ReplaceAllString(string(l), ""))
			}
			if used != len(text) || strings.Contains(b.String(), "<") {
				t.Errorf("%s: %d of %d bytes: %.100q", file, used, len(text), b.String())
			}
		}
	}
}
