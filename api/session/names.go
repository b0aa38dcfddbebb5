package session

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// ReportName is the name of the ConfigMap with the report of the file restore with this UID, as
// decision 009 computes it.
func ReportName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	rest := strings.ToLower(base32.StdEncoding.EncodeToString(sum[1:]))
	return "vmfr-" + string(rune('a'+sum[0]%26)) + rest[:9] + "-report"
}
