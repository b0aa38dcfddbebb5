package sshd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/test/fixture"
)

func publicLine(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(newSigner(t, "").PublicKey())))
}

func TestParseAuthorizedKeys(t *testing.T) {
	a, b := publicLine(t), publicLine(t)
	for name, c := range map[string]struct {
		data string
		keys int
		err  string
	}{
		"one":            {a, 1, ""},
		"comments":       {"# mine\n\n" + a + " me@home\r\n  " + b + "\n#end", 2, ""},
		"twice":          {a + "\n" + a + " again\n", 2, ""},
		"empty":          {"", 0, "no key found"},
		"only a comment": {"# nothing\n", 0, "no key found"},
		"from":           {a + "\nfrom=\"10.0.0.0/8,!10.1.*,fe80::?\" " + b, 2, ""},
		"name":           {a + "\nfrom=\"*.example.com\" " + b, 1, `line 2: the key is not used: option "from": "*.example.com" is no address`},
		"network":        {a + "\nfrom=\"10.0.0.0/40\" " + b, 1, `is no network`},
		"no value":       {a + "\nfrom " + b, 1, `option "from"`},
		"expiry":         {"expiry-time=\"20270131\" " + a + "\nexpiry-time=\"202701312359Z\",from=\"*\" " + b, 2, ""},
		"bad expiry":     {"expiry-time=\"tomorrow\" " + a + "\n" + b, 1, `"tomorrow" is no time`},
		"one of three":   {"no-pty " + a + "\n" + b + "\npermitopen=\"x:1\" " + a, 1, `line 1: the key is not used: option "no-pty"`},
		"command":        {"command=\"id\" " + a, 0, `line 1: the key is not used: option "command"`},
		"restrict":       {"restrict " + a, 0, `option "restrict"`},
		"ca":             {"cert-authority " + a, 0, `option cert-authority`},
		"nonsense":       {a + "\n\nhello\n", 0, "line 3: not a public key"},
		"cut":            {a[:40], 0, "line 1: not a public key"},
		"private":        {"-----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n", 0, "line 1: this is a private key"},
		"binary":         {"\x00\xff\xfe", 0, "line 1: not a public key"},
	} {
		keys, refused, err := ParseAuthorizedKeys([]byte(c.data))
		if err == nil && len(refused) > 0 {
			err = refused[0]
		}
		if len(keys) != c.keys || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	fixture.Need(t, "ssh-keygen")
	dir := t.TempDir()
	fixture.Run(t, "ssh-keygen", "-q", "-N", "", "-t", "rsa", "-b", "1024", "-f", filepath.Join(dir, "rsa"))
	if _, _, err := ParseAuthorizedKeys([]byte(readFile(t, filepath.Join(dir, "rsa.pub")))); err == nil || !strings.Contains(err.Error(), "line 1: RSA key of 1024 bits") {
		t.Errorf("RSA 1024: %v", err)
	}
	if exec.Command("ssh-keygen", "-q", "-N", "", "-t", "dsa", "-f", filepath.Join(dir, "dsa")).Run() == nil {
		if _, _, err := ParseAuthorizedKeys([]byte(readFile(t, filepath.Join(dir, "dsa.pub")))); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("DSA: %v", err)
		}
	}
	// A certificate is not a key that somebody may log in with by itself.
	fixture.Run(t, "ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", filepath.Join(dir, "u"))
	fixture.Run(t, "ssh-keygen", "-q", "-s", filepath.Join(dir, "u"), "-I", "x", "-n", "oadp", filepath.Join(dir, "u.pub"))
	if _, _, err := ParseAuthorizedKeys([]byte(readFile(t, filepath.Join(dir, "u-cert.pub")))); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("certificate: %v", err)
	}
}

func TestNewKey(t *testing.T) {
	fixture.Need(t, "ssh-keygen")
	priv, pub, err := NewKey("oadp@vmfr")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, priv, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fixture.Run(t, "ssh-keygen", "-y", "-f", path); strings.Fields(got)[1] != strings.Fields(string(pub))[1] {
		t.Errorf("ssh-keygen reads another key: %s", got)
	}
	if k, _, err := ParseAuthorizedKeys(pub); err != nil || len(k) != 1 {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	s := newSigner(t, "")
	good := Config{User: "oadp", AuthorizedKeys: []AuthorizedKey{{Key: s.PublicKey()}}, HostKey: s}
	if c, err := good.complete(); err != nil || c.MaxConns != DefaultMaxConns || c.ShutdownGrace != DefaultShutdownGrace {
		t.Errorf("%+v, %v", c, err)
	}
	for want, change := range map[string]func(*Config){
		"no user name": func(c *Config) { c.User = "" }, "no authorized key": func(c *Config) { c.AuthorizedKeys = nil },
		"no host key": func(c *Config) { c.HostKey = nil }, "negative": func(c *Config) { c.MaxConns = -1 }, "empty key": func(c *Config) { c.AuthorizedKeys = []AuthorizedKey{{}} },
	} {
		c := good
		change(&c)
		if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzParseAuthorizedKeys(f *testing.F) {
	line := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1b3Mw3nXkqTn1R1sM1rYvXo8m3pO0N3b4uQnqj9kYy a@b"
	for _, s := range []string{line, "# c\n" + line + "\n", "from=\"*\" " + line, "command=\"a b\",no-pty " + line, "ssh-rsa AAAA", "\xff\x00", "ecdsa-sha2-nistp256 AAAAE2VjZHNh"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, _, err := ParseAuthorizedKeys(data)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("more than one line: %q", err)
		}
		for _, k := range keys {
			again, _, err := ParseAuthorizedKeys(gossh.MarshalAuthorizedKey(k.Key))
			if err != nil || len(again) != 1 || !bytes.Equal(again[0].Key.Marshal(), k.Key.Marshal()) {
				t.Fatalf("%v does not survive: %v", k.Key, err)
			}
		}
	})
}
