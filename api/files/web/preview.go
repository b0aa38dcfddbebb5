package web

import (
	"html/template"
	"strings"
	"time"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/lexers"
)

const (
	// maxColoured is how much of a text is coloured, in bytes of UTF-8; colourTime how long that may take: a lexer's
	// expressions backtrack, and the text is a stranger's. A text with a line of maxLine bytes is not for them at all.
	maxColoured = 64 << 10
	colourTime  = 500 * time.Millisecond
	// maxLine is where a long line is broken, in bytes, so that a browser can lay it out.
	maxLine = 2000
)

// preview is a text as it is shown.
type preview struct {
	Encoding string
	Language string // empty: without colours
	Lines    []template.HTML
	Cut      bool // a line was broken
}

// preview decodes and colours a piece of a text, and tells how many bytes of it are shown.
func (s *Site) preview(name string, b []byte, enc *textEncoding, cut bool) (*preview, int) {
	used := enc.end(b, cut)
	text := strings.ReplaceAll(enc.decode(b[:used]), "\r\n", "\n")
	p := &preview{Encoding: enc.Name}
	lines := plain(text)
	if l := lexers.Match(name); l != nil && len(text) <= maxColoured && longest(text) <= maxLine {
		if coloured, ok := colour(l, text); ok {
			lines, p.Language = coloured, l.Config().Name
		}
	}
	for _, line := range lines {
		p.line(line)
	}
	return p, used
}

// piece is a part of a line; class is its colour's.
type piece struct{ class, text string }

func plain(text string) (lines [][]piece) {
	for l := range strings.Lines(text) {
		lines = append(lines, []piece{{"", l}})
	}
	return lines
}

// longest is the length of the longest line, in bytes.
func longest(text string) (n int) {
	for l := range strings.Lines(text) {
		n = max(n, len(l))
	}
	return n
}

// colour divides a text into classes; false: it cannot, or not in time.
func colour(l chroma.Lexer, text string) (lines [][]piece, ok bool) {
	// A lexer that fails on a guest's text costs the colours, nothing else.
	defer func() {
		if recover() != nil {
			lines, ok = nil, false
		}
	}()
	it, err := l.Tokenise(&chroma.TokeniseOptions{State: "root", EnsureLF: false}, text)
	if err != nil {
		return nil, false
	}
	end := time.Now().Add(colourTime)
	var line []piece
	total := 0
	for t := it(); t != chroma.EOF; t = it() {
		if time.Now().After(end) {
			return nil, false
		}
		total += len(t.Value)
		kind := class(t.Type)
		for part := range strings.Lines(t.Value) {
			if n := len(line); n > 0 && line[n-1].class == kind {
				line[n-1].text += part
			} else {
				line = append(line, piece{kind, part})
			}
			if strings.HasSuffix(part, "\n") {
				lines, line = append(lines, line), nil
			}
		}
	}
	if len(line) > 0 {
		lines = append(lines, line)
	}
	return lines, total == len(text) // a lexer that lost something must not be believed
}

// class names a token's colour: few, so that they stay apart in light and dark.
func class(t chroma.TokenType) string {
	switch {
	case t.InCategory(chroma.Comment):
		return "c"
	case t.InCategory(chroma.Keyword):
		return "k"
	case t.InSubCategory(chroma.LiteralString):
		return "s"
	case t.InCategory(chroma.Literal):
		return "m"
	case t == chroma.NameTag || t == chroma.NameFunction || t == chroma.NameClass || t == chroma.NameBuiltin:
		return "f"
	case t == chroma.NameAttribute || t == chroma.NameVariable || t == chroma.NameConstant:
		return "v"
	case t.InCategory(chroma.Generic):
		return "g"
	}
	return ""
}

// line adds one line as markup, broken where it is too long.
func (p *preview) line(parts []piece) {
	var b strings.Builder
	room := maxLine
	for _, part := range parts {
		text := strings.TrimRight(part.text, "\r\n")
		for len(text) > 0 {
			n := min(len(text), room)
			for n < len(text) && n > 0 && text[n]&0xc0 == 0x80 {
				n--
			}
			if n == 0 {
				n = min(len(text), room)
			}
			if part.class != "" {
				b.WriteString(`<span class="` + part.class + `">`)
			}
			marked(&b, text[:n], "\t")
			if part.class != "" {
				b.WriteString(`</span>`)
			}
			text = text[n:]
			if room -= n; room <= 0 {
				p.Lines, p.Cut = append(p.Lines, template.HTML(b.String())), true
				b.Reset()
				room = maxLine
			}
		}
	}
	p.Lines = append(p.Lines, template.HTML(b.String()))
}
