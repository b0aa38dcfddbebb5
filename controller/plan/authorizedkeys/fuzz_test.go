package authorizedkeys

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"vmfr/sshd"
)

// fixedKey is a public key whose private half nobody has.
var fixedKey = "ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 "+strings.Repeat("\x07", 32))) + " anna"

// FuzzCheck compares with the node's SSH server: it must take every key of a file that was
// accepted here, or a restore would be Completed and nobody could log in.
func FuzzCheck(f *testing.F) {
	ec := "ecdsa-sha2-nistp256 " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x13ecdsa-sha2-nistp256\x00\x00\x00\x08nistp256\x00\x00\x00\x41\x04"+strings.Repeat("\x01", 64)))
	for _, s := range []string{
		fixedKey, "# c\n\n" + fixedKey + "\r\n" + ec, `from="10.0.0.0/8,!10.1.*" ` + fixedKey, `expiry-time="202701312359Z",FROM=* ` + fixedKey,
		`expiry-time=20270131 ` + fixedKey, `from="\"" ` + fixedKey, "no-pty " + fixedKey, `command="a b" ` + fixedKey, "ssh-rsa AAAA", "\xff\x00", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if Check(data, true) == nil {
			keys, refused, err := sshd.ParseAuthorizedKeys(data)
			if err != nil || len(refused) > 0 || len(keys) == 0 {
				t.Errorf("%q was accepted, but the server says %v, %v", data, refused, err)
			}
		}
		if err := Check(data, false); err == nil {
			if _, err := sshd.ParseTrustedUserCAs(data); err != nil {
				t.Errorf("authorities %q were accepted, but the server says %v", data, err)
			}
		} else if s := err.Error(); strings.ContainsAny(s, "\n\r\x00") || len(s) > 300 {
			t.Errorf("an error of %d bytes: %q", len(s), s)
		}
		// And the other way: what the server takes without reservation is accepted.
		keys, refused, err := sshd.ParseAuthorizedKeys(data)
		if err == nil && len(refused) == 0 && len(keys) > 0 && len(data) <= MaxBytes && !bytes.Contains(data, []byte("PRIVATE KEY")) {
			if err := Check(data, true); err != nil {
				t.Errorf("%q is refused (%v), but the server takes it", data, err)
			}
		}
	})
}
