package web

import (
	"bytes"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
)

// textEncoding is how a text is written.
type textEncoding struct {
	Name string
	unit int               // bytes of its smallest piece
	enc  encoding.Encoding // nil: UTF-8
	mark []byte            // at the beginning of a file
}

var (
	utf8Text = &textEncoding{Name: "UTF-8", unit: 1, mark: []byte{0xef, 0xbb, 0xbf}}
	utf16le  = &textEncoding{Name: "UTF-16LE", unit: 2, enc: unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), mark: []byte{0xff, 0xfe}}
	utf16be  = &textEncoding{Name: "UTF-16BE", unit: 2, enc: unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), mark: []byte{0xfe, 0xff}}
	// latin1 is what browsers take for ISO 8859-1: it gives every byte a meaning.
	latin1 = &textEncoding{Name: "Windows-1252", unit: 1, enc: charmap.Windows1252}
)

// maxControls is the share of control characters from which on bytes are no text, one in so many.
const maxControls = 512

// detect tells how b, the beginning or a piece of a file, is written; nil: it is no text. cut
// tells that the file goes on behind b.
func detect(b []byte, cut bool) *textEncoding {
	for _, e := range []*textEncoding{utf8Text, utf16le, utf16be} {
		if bytes.HasPrefix(b, e.mark) && e.plausible(b[len(e.mark):]) {
			return e
		}
	}
	if bytes.IndexByte(b, 0) >= 0 {
		// Without a mark: text in Latin letters has zeros in one half of the bytes and none in the other.
		var zeros [2]int
		for i, c := range b {
			if c == 0 {
				zeros[i&1]++
			}
		}
		even := len(b) >= 4 && (cut || len(b)%2 == 0)
		switch {
		case even && zeros[0] == 0 && zeros[1] >= len(b)/4 && utf16le.plausible(b):
			return utf16le
		case even && zeros[1] == 0 && zeros[0] >= len(b)/4 && utf16be.plausible(b):
			return utf16be
		}
		return nil
	}
	if whole := trim(b, cut); utf8.Valid(whole) && controls(whole)*maxControls <= len(b) {
		return utf8Text
	}
	if controls(b)*maxControls <= len(b) {
		return latin1
	}
	return nil
}

// trim takes a character off the end of b that is cut in the middle, and one off its beginning.
func trim(b []byte, cut bool) []byte {
	for i := 0; i < utf8.UTFMax-1 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
		b = b[1:]
	}
	if cut {
		for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
			if c := b[len(b)-i]; utf8.RuneStart(c) {
				if !utf8.FullRune(b[len(b)-i:]) {
					b = b[:len(b)-i]
				}
				break
			}
		}
	}
	return b
}

// controls counts what text does not have.
func controls(b []byte) (n int) {
	for _, c := range b {
		if c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\b' && c != 0x1b || c == 0x7f {
			n++
		}
	}
	return n
}

// plausible tells whether b decodes to text.
func (e *textEncoding) plausible(b []byte) bool {
	t := e.decode(b)
	n := 0
	for _, c := range t {
		if c == utf8.RuneError || c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f' {
			n++
		}
	}
	return n*maxControls <= len(t)
}

// decode returns b as UTF-8, without a byte order mark at its beginning.
func (e *textEncoding) decode(b []byte) string {
	b = bytes.TrimPrefix(b, e.mark)
	if e.enc == nil {
		return string(b)
	}
	out, err := e.enc.NewDecoder().Bytes(b[:len(b)-len(b)%e.unit])
	if err != nil {
		return string(b) // these decoders replace, they do not fail
	}
	return string(out)
}

// end is where a piece of a text is cut so that the next one begins with a line, or at least with a character.
func (e *textEncoding) end(b []byte, cut bool) int {
	if !cut {
		return len(b)
	}
	n := len(b) - len(b)%e.unit
	line := []byte{'\n'}
	switch e {
	case utf16le:
		line = []byte{'\n', 0}
	case utf16be:
		line = []byte{0, '\n'}
	}
	for i := n; i > n/2; {
		i = bytes.LastIndex(b[:i], line)
		if i < 0 {
			break
		}
		if i%e.unit == 0 && i > 0 {
			return i + len(line)
		}
		i += len(line) - 1 // found across two characters
	}
	if e == utf8Text {
		return len(trim(b[:n:n], true)) + (len(b[:n]) - len(trim(b[:n:n], false)))
	}
	return n
}
