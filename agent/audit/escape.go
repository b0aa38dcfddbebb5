package audit

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape writes bytes that a guest or a client chose as one line of printable text: a backslash
// is \\, and every byte of what is not printable UTF-8 is \xNN. It is reversible, by Unescape or
// printf '%b'.
func Escape(s string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r) && (r != utf8.RuneError || n > 1):
			b.WriteString(s[:n])
		default:
			for i := range n {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			}
		}
		s = s[n:]
	}
	return b.String()
}

// plain tells that nothing is to be escaped, as in nearly all names.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f || s[i] == '\\' {
			return false
		}
	}
	return true
}

// Unescape is the inverse of Escape. Errors: a backslash that is followed by neither.
func Unescape(s string) (string, error) {
	var b strings.Builder
	for {
		head, tail, found := strings.Cut(s, `\`)
		b.WriteString(head)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(tail, `\`):
			b.WriteByte('\\')
			s = tail[1:]
		case len(tail) >= 3 && tail[0] == 'x':
			v, err := strconv.ParseUint(tail[1:3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("audit: %q is not an escaped byte", `\`+tail[:3])
			}
			b.WriteByte(byte(v))
			s = tail[3:]
		default:
			return "", fmt.Errorf("audit: %q ends in a backslash that escapes nothing", s)
		}
	}
}

func escapeAll(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = Escape(s)
	}
	return out
}
