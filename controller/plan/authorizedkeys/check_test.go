package authorizedkeys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"
)

func TestCheck(t *testing.T) {
	line := fixedKey
	encode := func(public any) string {
		k, err := gossh.NewPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(k)))
	}
	rsaLine := func(bits int) string {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return encode(k.Public())
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		line:                                "",
		encode(ed) + " a comment\r\n":       "",
		"\n# a\n  " + line + "\n\n":         "",
		encode(ec.Public()):                 "",
		rsaLine(2048):                       "",
		rsaLine(1024):                       "line 1: an RSA key of 1024 bits is too weak",
		`from="10.0.0.0/8,!10.1.*" ` + line: "",
		`FROM="fe80::?",expiry-time="20270131" ` + line: "",
		`expiry-time="202701312359Z" ` + line:           "",
		`expiry-time="tomorrow" ` + line:                "option expiry-time: a time",
		`from="a.example.com" ` + line:                  "option from: a list",
		`from="10.0.0.0/40" ` + line:                    "option from: a list",
		`from="",from="*" ` + line:                      "option from: ",
		`from="*",from="*" ` + line:                     "occurs twice",
		"from " + line:                                  "option from: a list",
		"expiry-time " + line:                           "option expiry-time: a time",
		"no-pty " + line:                                "option no-pty is not supported",
		"restrict,pty " + line:                          "option restrict is not supported",
		line + "\n" + `principals="a" ` + line:          "line 2: option principals",
		"ssh-ed25519 AAAA":                              "line 1: no public key",
		"":                                              "no key found",
		"\x00\xff":                                      "line 1: no public key",
		strings.Repeat(line+"\n", MaxBytes/len(line)):   "exceed the limit",
	} {
		err := Check([]byte(text), true)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}
