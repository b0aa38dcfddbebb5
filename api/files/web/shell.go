package web

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shellLine quotes each argument for a shell.
func shellLine(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = shellQuote(a)
	}
	return strings.Join(out, " ")
}

// shellQuote writes s so that a shell reads exactly its bytes, and a person sees all of them: bare
// where nothing is special, in single quotes, or as $'...' (POSIX.1-2024, bash, zsh, ksh) where it has
// controls, direction marks or bytes that are no characters. A terminal that a line is pasted into thus
// never gets a control.
func shellQuote(s string) string {
	bare, printable := s != "", true
	for i, c := range s {
		if c == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") || !unicode.IsPrint(c) {
			printable = false
		}
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("@%+=:,./_-", c)) {
			bare = false
		}
	}
	switch {
	case bare:
		return s
	case printable:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i, c := range s {
		n := utf8.RuneLen(c)
		invalid := c == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD")
		if invalid {
			n = 1
		}
		switch {
		case c == '\'' || c == '\\':
			b.WriteString(`\` + string(c))
		case invalid || !unicode.IsPrint(c):
			for _, x := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\%03o`, x) // three digits end by themselves, unlike \x
			}
		default:
			b.WriteRune(c)
		}
	}
	return b.String() + "'"
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// scpPath keeps scp, since OpenSSH 9, from taking a name for a pattern.
func scpPath(s string) string { return globEscape.Replace(s) }

// rsyncPath does so with rsync's secluded arguments, in which a backslash is one where no pattern is.
func rsyncPath(s string) string {
	if !strings.ContainsAny(s, `*?[`) {
		return s
	}
	return globEscape.Replace(s)
}
