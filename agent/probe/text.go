package probe

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// text is a label: up to the first NUL, without trailing blanks, made valid UTF-8.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.ToValidUTF8(strings.TrimRight(s, " "), "\uFFFD")
}

// uuid formats 16 bytes in the order in which they are stored (RFC 9562); zeros mean none.
func uuid(b []byte) string {
	if len(b) != 16 || strings.Trim(string(b), "\x00") == "" {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// serial formats the 32-bit volume serial number of FAT and exFAT as DOS does.
func serial(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}
