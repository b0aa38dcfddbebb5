// Package shellwords turns the command line that an SSH client sends into words, as far as a
// shell would without running anything: quoting by backslash, single and double quotes, blanks between words,
// and the patterns *, ? and [] for names of the tree.
//
// scp and rsync quote for the shell of the machine that they think they talk to; there is none
// here. The words are found by mvdan.cc/sh's parser. Non-goals: variables, substitutions,
// braces, redirections, several commands; each is an error that says so. Invariants: nothing
// is executed, the words, their bytes and the names that patterns are compared with are
// bounded, and names are bytes: what is not UTF-8 arrives unchanged.
package shellwords

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/pattern"
	"mvdan.cc/sh/v3/syntax"
)

const (
	// MaxCommand is the longest command line, in bytes.
	MaxCommand = 64 << 10
	// MaxWords is how many words there may be once patterns are replaced.
	MaxWords = 4096
	// maxCompared bounds the names that the patterns of one command line are compared with.
	maxCompared = 1 << 20
)

// ErrTooLong: more than MaxCommand bytes or MaxWords words.
var ErrTooLong = errors.New("too many names in one command; name the folder instead, or give a list on standard input")

// List calls yield with the names of the folder dir, without "." and "..", until yield returns
// false. An error means that nothing below dir matches.
type List func(dir string, yield func(name string) bool) error

// Split returns the words of command. A word with an unquoted *, ? or [ is replaced by the sorted
// paths that match it, if there are any, as sh(1) does; list nil: no word is.
func Split(command string, list List) ([]string, error) {
	if len(command) > MaxCommand {
		return nil, ErrTooLong
	}
	if strings.IndexByte(command, 0) >= 0 {
		return nil, errors.New("the command holds a zero byte")
	}
	var words []word
	var bad error
	p := syntax.NewParser(syntax.Variant(syntax.LangPOSIX))
	err := p.Words(strings.NewReader(encode(command)), func(w *syntax.Word) bool {
		var one word
		one, bad = read(w)
		words = append(words, one)
		return bad == nil
	})
	if bad != nil {
		return nil, bad
	}
	if err != nil {
		return nil, errors.New("the command is not a list of words; put names with special characters between '' quotes")
	}
	return expand(words, list)
}

// Expand replaces patterns in words that were not quoted for a shell, as rsync does with secluded
// arguments: where one of * ? [ is in a word a backslash makes the next character plain, and in other
// words it is a character.
func Expand(args []string, list List) ([]string, error) {
	words := make([]word, len(args))
	size := 0
	for i, a := range args {
		size += len(a)
		e := encode(a)
		words[i] = word{text: a}
		if strings.ContainsAny(e, "*?[") {
			words[i] = word{text: unescape(e, ""), pattern: e}
		}
	}
	if size > MaxCommand {
		return nil, ErrTooLong
	}
	return expand(words, list)
}

func expand(words []word, list List) ([]string, error) {
	g := glob{list: list, left: maxCompared}
	var out []string
	for _, w := range words {
		if w.pattern == "" || list == nil {
			out = append(out, w.text)
			continue
		}
		found, err := g.paths(w.pattern)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			found = []string{w.text}
		}
		out = append(out, found...)
		if len(out) > MaxWords {
			return nil, ErrTooLong
		}
	}
	return out, nil
}

// word is what one word stands for.
type word struct {
	text    string // without quotes, as bytes
	pattern string // encoded, with quoted characters escaped; empty if there is no pattern
}

// read takes the parts of a word together.
func read(w *syntax.Word) (word, error) {
	var text, pat strings.Builder
	for i, part := range w.Parts {
		switch x := part.(type) {
		case *syntax.Lit:
			v := x.Value
			if i == 0 && (v == "~" && len(w.Parts) == 1 || strings.HasPrefix(v, "~/")) {
				v = "/" + strings.TrimPrefix(v[1:], "/") // the home folder is the tree's root
			}
			text.WriteString(unescape(v, ""))
			pat.WriteString(v)
		case *syntax.SglQuoted:
			text.WriteString(decode(x.Value))
			pat.WriteString(quote(x.Value))
		case *syntax.DblQuoted:
			for _, inner := range x.Parts {
				l, ok := inner.(*syntax.Lit)
				if !ok {
					return word{}, errSyntax(inner)
				}
				plain := unescape(l.Value, "$`\"\\")
				text.WriteString(plain)
				pat.WriteString(quote(encode(plain)))
			}
		default:
			return word{}, errSyntax(part)
		}
	}
	out := word{text: text.String()}
	if pattern.HasMeta(pat.String(), 0) {
		out.pattern = pat.String()
	}
	return out, nil
}

func errSyntax(part syntax.WordPart) error {
	what := "shell syntax"
	switch part.(type) {
	case *syntax.ParamExp:
		what = "a variable ($)"
	case *syntax.CmdSubst, *syntax.ProcSubst:
		what = "a command in a command"
	case *syntax.ArithmExp:
		what = "arithmetic"
	}
	return fmt.Errorf("the command holds %s, and there is no shell here; put names with special characters between '' quotes", what)
}

// quote makes every character of s plain in a pattern.
func quote(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`*?[]\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// unescape removes the backslashes before those characters of s in which, or before all if
// which is empty, and returns bytes. A line break after a backslash is nothing.
func unescape(s, which string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			switch next := s[i+1]; {
			case next == '\n':
				i++
				continue
			case which == "" || strings.IndexByte(which, next) >= 0:
				i++
			}
		}
		b.WriteByte(s[i])
	}
	return decode(b.String())
}

// rawByte is where bytes that are not UTF-8 stand while a parser sees the text: U+10FF00 + byte,
// code points for private use at the end of Unicode. So do the characters that the parser does
// not leave alone: it drops a carriage return before a line break, and U+0080 and U+0081 stand
// for the end and for an escaped line break inside it.
const rawByte = 0x10FF00

// needsRaw tells whether a character, or a byte that is none, has to stand as rawByte.
func needsRaw(r rune, n int) bool {
	return r == utf8.RuneError && n == 1 || r >= rawByte || r == '\r' || r == utf8.RuneSelf || r == utf8.RuneSelf+1
}

// encode makes valid UTF-8 of bytes, reversibly.
func encode(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if needsRaw(r, n) {
			for range n {
				b.WriteRune(rawByte + rune(s[i]))
				i++
			}
			continue
		}
		b.WriteString(s[i : i+n])
		i += n
	}
	return b.String()
}

// decode is the inverse of encode.
func decode(s string) string {
	if !strings.Contains(s, "\xf4\x8f") {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r >= rawByte {
			b.WriteByte(byte(r - rawByte))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
