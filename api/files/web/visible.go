package web

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Visible makes s safe to look at: what is not printable (controls, direction marks, bytes
// that are not UTF-8) is shown as an escape, so a name cannot pretend to be another one.
func Visible(s string) string {
	var b strings.Builder
	pieces(s, "", func(text string, _ bool) { b.WriteString(text) })
	return b.String()
}

// pieces calls add with the parts of s, and for each character that is neither printable nor in
// keep with its escape.
func pieces(s, keep string, add func(text string, escape bool)) {
	from := 0
	for i, c := range s {
		if unicode.IsPrint(c) && (c != unicode.ReplacementChar || strings.HasPrefix(s[i:], "\uFFFD")) || c < 0x80 && strings.IndexByte(keep, byte(c)) >= 0 {
			continue
		}
		if from < i {
			add(s[from:i], false)
		}
		if c == unicode.ReplacementChar && !strings.HasPrefix(s[i:], "\uFFFD") {
			add(`\x`+strconv.FormatUint(uint64(s[i])|0x100, 16)[1:], true)
			from = i + 1
			continue
		}
		q := strconv.QuoteRuneToASCII(c)
		add(q[1:len(q)-1], true)
		from = i + len(string(c))
	}
	if from < len(s) {
		add(s[from:], false)
	}
}

// name is a guest's name as markup: its own direction cannot reach what is beside it, and an escape looks
// different from the same letters.
func name(s string) template.HTML {
	var b strings.Builder
	b.WriteString("<bdi>")
	marked(&b, s, "")
	b.WriteString("</bdi>")
	return template.HTML(b.String())
}

func marked(b *strings.Builder, s, keep string) {
	pieces(s, keep, func(text string, escape bool) {
		if escape {
			b.WriteString(`<span class="esc">` + template.HTMLEscapeString(text) + `</span>`)
			return
		}
		b.WriteString(template.HTMLEscapeString(text))
	})
}

// size is a number of bytes for people: three digits at most before the unit.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}

// grouped writes a number with thousands apart.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// moment shortens a time of the API to seconds; what is no time stays as it is.
func moment(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// permissions writes octal permission bits and a type as ls does.
func permissions(kind, octal string) string {
	m, err := strconv.ParseUint(octal, 8, 32)
	if err != nil {
		return ""
	}
	out := []byte("-rwxrwxrwx")
	out[0] = map[string]byte{"directory": 'd', "symlink": 'l', "block": 'b', "char": 'c', "fifo": 'p', "socket": 's', "file": '-'}[kind]
	if out[0] == 0 {
		out[0] = '?'
	}
	for i := range 9 {
		if m>>(8-i)&1 == 0 {
			out[i+1] = '-'
		}
	}
	for i, special := range []byte("sst") { // set-uid, set-gid, sticky: upper case without x
		if at := 3 * (i + 1); m>>(11-i)&1 == 1 {
			if out[at] == '-' {
				special -= 'a' - 'A'
			}
			out[at] = special
		}
	}
	return string(out)
}

// funcs are what templates call.
func (s *Site) funcs() template.FuncMap {
	return template.FuncMap{
		"t": s.texts.get, "name": name, "size": size, "grouped": grouped, "moment": moment, "permissions": permissions,
		"line": func(text string) template.HTML {
			var b strings.Builder
			marked(&b, text, "\t")
			return template.HTML(b.String())
		},
		"eqtrue": func(b *bool) bool { return b != nil && *b },
		"icon": func(id string) template.HTML {
			return template.HTML(`<svg class="icon i-` + id + `" aria-hidden="true"><use href="#i-` + id + `"/></svg>`)
		},
	}
}
