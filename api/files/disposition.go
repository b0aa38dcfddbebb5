package files

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFilename bounds the name in a header, in bytes: what file systems take.
const maxFilename = 255

// disposition is the Content-Disposition (RFC 6266) that saves a body as name: first what
// every client understands, then the exact name for the others (RFC 8187). What is not
// printable, or a separator somewhere, becomes "_" in both.
func disposition(name string) string {
	var plain, exact strings.Builder
	for i := 0; i < len(name) && i < maxFilename; {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n <= 1 || !unicode.IsPrint(r) || strings.ContainsRune(`/\:*?"<>|`, r) {
			r = '_'
		}
		if r < utf8.RuneSelf && r != '%' {
			plain.WriteRune(r)
		} else {
			plain.WriteByte('_')
		}
		for _, c := range []byte(string(r)) {
			if attrChar(c) {
				exact.WriteByte(c)
			} else {
				fmt.Fprintf(&exact, "%%%02X", c)
			}
		}
		i += n
	}
	s := `attachment; filename="` + plain.String() + `"`
	if plain.String() != exact.String() {
		s += "; filename*=UTF-8''" + exact.String()
	}
	return s
}

// attrChar is RFC 8187's set of what stands for itself.
func attrChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0
}
