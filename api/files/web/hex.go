package web

import (
	"fmt"
	"strings"
)

// dump is bytes as hexadecimal numbers and characters.
type dump struct{ Rows []dumpRow }

type dumpRow struct{ Offset, Hex, Text string }

// rowBytes is the length of a row, in bytes.
const rowBytes = 16

func hexDump(b []byte, off int64) *dump {
	d := &dump{}
	for i := 0; i < len(b); i += rowBytes {
		part := b[i:min(i+rowBytes, len(b))]
		var text strings.Builder
		for _, c := range part {
			if c < 0x20 || c > 0x7e {
				c = '.'
			}
			text.WriteByte(c)
		}
		h := fmt.Sprintf("% x", part)
		if len(part) > rowBytes/2 { // a gap in the middle
			h = h[:3*rowBytes/2] + " " + h[3*rowBytes/2:]
		}
		d.Rows = append(d.Rows, dumpRow{fmt.Sprintf("%08x", off+int64(i)), h, text.String()})
	}
	return d
}
