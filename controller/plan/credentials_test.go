package plan

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// fixed is a source of the same bytes each time.
func fixed(seed byte) io.Reader { return mathrand.NewChaCha8([32]byte{seed}) }

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testInput is a restore of one backup, served by SSH and HTTPS.
func testInput(change func(*v1alpha1.VirtualMachineFileRestoreSpec)) Input {
	r := &v1alpha1.VirtualMachineFileRestore{}
	r.UID, r.Name, r.Namespace = "5d9b2f0e-3f5c-4c39-9a55-8d2d7e3f1a10", "web-files", "openshift-adp"
	r.Spec.BackupsDiscoveryRef = "web-backups"
	r.Spec.FileAccess = &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}
	if change != nil {
		change(&r.Spec)
	}
	return Input{Restore: r, VM: session.VM{Name: "web", Namespace: "prod"}, Backups: Number([]Backup{{
		Name: "monday", Timestamp: testNow.Add(-time.Hour),
		Disks: []Disk{{Name: "web-root", PVCUID: "1", Mode: session.Block, Bus: "virtio", Claim: "web-root"}},
	}})}
}

func secret(namespace, name string, pairs ...string) *corev1.Secret {
	s := &corev1.Secret{Data: map[string][]byte{}}
	s.Namespace, s.Name = namespace, name
	for i := 0; i < len(pairs); i += 2 {
		s.Data[pairs[i]] = []byte(pairs[i+1])
	}
	return s
}

// found are the session's Secrets as the plan makes them.
func found(t testing.TB, cfg Config, in Input, m Material) (f Found) {
	t.Helper()
	p, err := Build(cfg, in, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range append(p.Step(StepIdentity), p.Step(StepCredentials)...) {
		s, ok := o.(*corev1.Secret)
		if !ok || s.Namespace != p.Names.Session {
			continue
		}
		switch s.Name {
		case p.Names.Identity():
			f.Identity = s
		case p.Names.SSH():
			f.SSH = s
		case p.Names.Browser():
			f.Browser = s
		case p.Names.TLS():
			f.TLS = s
		}
	}
	return f
}

func material(t testing.TB, cfg Config, in Input, f Found, random io.Reader) Material {
	t.Helper()
	m, err := NewMaterial(cfg, in, f, testNow, random)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGenerated(t *testing.T) {
	in := testInput(nil)
	m := material(t, testConfig(), in, Found{}, rand.Reader)
	if len(m.Identity.JoinKey) != session.JoinKeyBytes || len(m.Identity.SessionID()) != 64 {
		t.Errorf("the join key has %d bytes", len(m.Identity.JoinKey))
	}
	if line, err := m.Identity.HostKeyLine(); err != nil || !strings.HasPrefix(line, "ssh-ed25519 AAAA") || strings.ContainsAny(line, "\n") {
		t.Errorf("host key %q: %v", line, err)
	}
	signer, err := gossh.ParsePrivateKey(m.SSH.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, rest, err := gossh.ParseAuthorizedKey(m.SSH.AuthorizedKeys)
	if err != nil || len(rest) > 0 || !bytes.Equal(key.Marshal(), signer.PublicKey().Marshal()) || m.SSH.Username != "oadp" {
		t.Errorf("the pair of %s does not fit: %v", m.SSH.Username, err)
	}
	if p := m.Browser.Password; len(p) != passwordLen || strings.Trim(p, passwordAlphabet) != "" || m.Browser.Username != "oadp" {
		t.Errorf("password of %d characters for %s", len(p), m.Browser.Username)
	}
	other := material(t, testConfig(), in, Found{}, rand.Reader)
	if bytes.Equal(m.Identity.JoinKey, other.Identity.JoinKey) || bytes.Equal(m.Identity.HostKey, other.Identity.HostKey) ||
		m.Browser.Password == other.Browser.Password || bytes.Equal(m.SSH.PrivateKey, other.SSH.PrivateKey) || bytes.Equal(m.TLS.Key, other.TLS.Key) {
		t.Error("two sessions share a secret")
	}
	if s := fmt.Sprintf("%v %+v %#v %s", m, m, &m, m); strings.Contains(s, m.Browser.Password) {
		t.Errorf("printing shows the password: %s", s)
	}
}

// TestKept makes the material again from what was applied, without randomness.
func TestKept(t *testing.T) {
	in := testInput(nil)
	m := material(t, testConfig(), in, Found{}, rand.Reader)
	again := material(t, testConfig(), in, found(t, testConfig(), in, m), strings.NewReader(""))
	for name, pair := range map[string][2][]byte{
		"join key": {m.Identity.JoinKey, again.Identity.JoinKey}, "host key": {m.Identity.HostKey, again.Identity.HostKey},
		"private key": {m.SSH.PrivateKey, again.SSH.PrivateKey}, "authorized_keys": {m.SSH.AuthorizedKeys, again.SSH.AuthorizedKeys},
		"password": {[]byte(m.Browser.Password), []byte(again.Browser.Password)}, "certificate": {m.TLS.Cert, again.TLS.Cert},
	} {
		if !bytes.Equal(pair[0], pair[1]) || len(pair[0]) == 0 {
			t.Errorf("the %s changed", name)
		}
	}
	// Any part alone is kept, too: the controller may be stopped between two writes.
	part := material(t, testConfig(), in, Found{Identity: found(t, testConfig(), in, m).Identity}, rand.Reader)
	if !bytes.Equal(part.Identity.JoinKey, m.Identity.JoinKey) || part.Browser.Password == m.Browser.Password {
		t.Error("of one Secret not just that one was kept")
	}
}

// TestFollowed changes the spec of a session that has generated credentials.
func TestFollowed(t *testing.T) {
	before := testInput(nil)
	generated := found(t, testConfig(), before, material(t, testConfig(), before, Found{}, rand.Reader))
	line := publicKeyLine(t)

	f := generated
	inline := material(t, testConfig(), testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess.SSH.PublicKey, s.FileAccess.SSH.Username = line, "anna"
	}), f, rand.Reader)
	if string(inline.SSH.AuthorizedKeys) != line || inline.SSH.PrivateKey != nil || inline.SSH.Username != "anna" {
		t.Errorf("the public key is not used: %+v", inline.SSH)
	}

	withRefs := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess.SSH.CredentialsSecretRef = &v1alpha1.SecretReference{Name: "keys"}
		s.FileAccess.SSH.PublicKey, s.FileAccess.SSH.Username = "ssh-ed25519 AAAA", "anna" // not even read
		s.FileAccess.FileBrowser.CredentialsSecretRef = &v1alpha1.SecretReference{Name: "password", Namespace: "team"}
		s.DiskKeysSecretRef = &v1alpha1.SecretReference{Name: "luks"}
	})
	refs := SecretReferences(testConfig(), withRefs)
	if refs.SSH.String() != "openshift-adp/keys" || refs.Browser.String() != "team/password" || refs.DiskKeys.String() != "openshift-adp/luks" {
		t.Errorf("references %v %v %v", refs.SSH, refs.Browser, refs.DiskKeys)
	}
	f.SSHRef = secret("openshift-adp", "keys", "authorized_keys", line, "username", "bob\n", "trusted_user_ca", line)
	f.BrowserRef = secret("team", "password", "password", "correct horse battery\r\n", "username", "carol")
	f.DiskKeysRef = secret("openshift-adp", "luks", "root", "one\n", "data", "two")
	copied := material(t, testConfig(), withRefs, f, strings.NewReader(""))
	if copied.SSH.Username != "bob" || string(copied.SSH.TrustedCA) != line || copied.SSH.PrivateKey != nil {
		t.Errorf("the Secret does not win: %+v", copied.SSH)
	}
	if copied.Browser.Username != "carol" || copied.Browser.Password != "correct horse battery" {
		t.Errorf("browser's credentials are of %q, %q", copied.Browser.Username, copied.Browser.Password)
	}
	if string(copied.DiskKeys["root"]) != "one\n" || len(copied.DiskKeys) != 2 {
		t.Error("the disk keys are not copied as they are")
	}

	// A copied password is nobody's once it is not referred to any more.
	back := material(t, testConfig(), before, found(t, testConfig(), withRefs, copied), rand.Reader)
	if back.Browser.Password == copied.Browser.Password || back.SSH.PrivateKey == nil {
		t.Error("a copy was taken for what was generated")
	}
}

func publicKeyLine(t testing.TB) string {
	t.Helper()
	key, _, err := newKeyPair(rand.Reader, "")
	if err != nil {
		t.Fatal(err)
	}
	return publicLine(key)
}

func TestRefused(t *testing.T) {
	line := publicKeyLine(t)
	const ssh, browser, disks = "adp/keys", "adp/password", "adp/luks"
	for name, c := range map[string]struct {
		secret   *corev1.Secret
		of       string
		key      string
		rule     string
		mustHide string
	}{
		"no ssh Secret":       {nil, ssh, "", "does not exist", ""},
		"no browser Secret":   {nil, browser, "", "does not exist", ""},
		"no disk keys":        {nil, disks, "", "does not exist", ""},
		"no keys":             {secret("adp", "keys"), ssh, "authorized_keys", "missing", ""},
		"empty keys":          {secret("adp", "keys", "authorized_keys", "# none\n"), ssh, "authorized_keys", "no key found", ""},
		"private key":         {secret("adp", "keys", "authorized_keys", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"), ssh, "authorized_keys", "private key", "hunter2"},
		"not a key":           {secret("adp", "keys", "authorized_keys", line+"\nhunter2\n"), ssh, "authorized_keys", "line 2: no public key", "hunter2"},
		"command":             {secret("adp", "keys", "authorized_keys", `command="hunter2" `+line), ssh, "authorized_keys", "line 1: option command", "hunter2"},
		"odd option":          {secret("adp", "keys", "authorized_keys", "hunter2 "+line), ssh, "authorized_keys", "an option", "hunter2"},
		"certificate":         {secret("adp", "keys", "authorized_keys", "cert-authority "+line), ssh, "authorized_keys", "cert-authority", ""},
		"ssh user":            {secret("adp", "keys", "authorized_keys", line, "username", "Hunter2"), ssh, "username", "lower-case", "Hunter2"},
		"authority's options": {secret("adp", "keys", "authorized_keys", line, "trusted_user_ca", `from="*" `+line), ssh, "trusted_user_ca", "no options", ""},
		"no password":         {secret("adp", "password", "username", "anna"), browser, "password", "missing", ""},
		"short":               {secret("adp", "password", "password", "hunter2hunt\n"), browser, "password", "at least 12", "hunter2"},
		"two lines":           {secret("adp", "password", "password", "hunter2\nhunter2hunter2"), browser, "password", "one line", "hunter2"},
		"not text":            {secret("adp", "password", "password", "hunter2hunter2\xff"), browser, "password", "printable", "hunter2"},
		"colon":               {secret("adp", "password", "password", "correct horse battery", "username", "hunter2:x"), browser, "username", "colon", "hunter2"},
		"empty user":          {secret("adp", "password", "password", "correct horse battery", "username", "\n"), browser, "username", "1 to 64", ""},
		"empty disk keys":     {secret("adp", "luks"), disks, "", "is empty", ""},
		"large disk keys":     {secret("adp", "luks", "a", strings.Repeat("k", maxDiskKeys), "b", "x"), disks, "", "more than", "kkk"},
		"empty disk key":      {secret("adp", "luks", "a", "x", "b", ""), disks, "b", "is empty", ""},
	} {
		t.Run(name, func(t *testing.T) {
			namespace, object, _ := strings.Cut(c.of, "/")
			ref := &v1alpha1.SecretReference{Namespace: namespace, Name: object}
			var f Found
			in := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
				switch c.of {
				case ssh:
					s.FileAccess.SSH.CredentialsSecretRef, f.SSHRef = ref, c.secret
				case browser:
					s.FileAccess.FileBrowser.CredentialsSecretRef, f.BrowserRef = ref, c.secret
				case disks:
					s.DiskKeysSecretRef, f.DiskKeysRef = ref, c.secret
				}
			})
			m, err := NewMaterial(testConfig(), in, f, testNow, rand.Reader)
			var e *CredentialError
			if !errors.As(err, &e) || e.Secret.String() != c.of || e.Key != c.key || !strings.Contains(e.Rule, c.rule) {
				t.Fatalf("%v, want %s, key %q, %q", err, c.of, c.key, c.rule)
			}
			if c.mustHide != "" && strings.Contains(err.Error(), c.mustHide) {
				t.Errorf("the error shows what is in the Secret: %v", err)
			}
			if m.Identity.JoinKey != nil {
				t.Error("there is material beside the error")
			}
		})
	}
}

func TestRefusedFields(t *testing.T) {
	for field, change := range map[string]func(*v1alpha1.SSHAccess){
		"spec.fileAccess.ssh.publicKey":     func(s *v1alpha1.SSHAccess) { s.PublicKey = "hunter2" },
		"spec.fileAccess.ssh.trustedUserCA": func(s *v1alpha1.SSHAccess) { s.TrustedUserCA = "hunter2" },
	} {
		in := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) { change(s.FileAccess.SSH) })
		_, err := NewMaterial(testConfig(), in, Found{}, testNow, rand.Reader)
		var e *CredentialError
		if !errors.As(err, &e) || e.Key != field || e.Secret.Name != "" || !strings.HasPrefix(err.Error(), field+": line 1: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestBroken changes the session's own Secrets.
func TestBroken(t *testing.T) {
	in := testInput(nil)
	whole := found(t, testConfig(), in, material(t, testConfig(), in, Found{}, rand.Reader))
	for key, f := range map[string]func(*Found){
		"joinKey":              func(f *Found) { f.Identity = f.Identity.DeepCopy(); f.Identity.Data["joinKey"] = []byte("short") },
		"ssh_host_ed25519_key": func(f *Found) { f.Identity = f.Identity.DeepCopy(); delete(f.Identity.Data, "ssh_host_ed25519_key") },
		"privateKey":           func(f *Found) { f.SSH = f.SSH.DeepCopy(); f.SSH.Data["privateKey"] = []byte("x") },
		"password":             func(f *Found) { f.Browser = f.Browser.DeepCopy(); f.Browser.Data["password"] = []byte("short") },
	} {
		changed := whole
		f(&changed)
		_, err := NewMaterial(testConfig(), in, changed, testNow, rand.Reader)
		var e *CredentialError
		if !errors.As(err, &e) || e.Key != key || e.Secret.Namespace != in.Names().Session || !strings.Contains(e.Rule, "make another") {
			t.Errorf("%s: %v", key, err)
		}
	}
	_, err := NewMaterial(testConfig(), in, Found{}, testNow, strings.NewReader("too few bytes"))
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without randomness: %v", err)
	}
}

func TestPasswordIsUniform(t *testing.T) {
	counts := map[rune]int{}
	random := fixed(7)
	for range 5500 {
		p, err := newPassword(random)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range p {
			counts[c]++
		}
	}
	// 132,000 characters, 2,400 of each; six standard deviations are 291.
	for _, c := range passwordAlphabet {
		if n := counts[c]; n < 2100 || n > 2700 {
			t.Errorf("%c occurs %d times instead of 2400", c, n)
		}
	}
	if strings.ContainsAny(passwordAlphabet, "0O1lIio") || len(counts) != len(passwordAlphabet) {
		t.Error("the alphabet is not what its comment says")
	}
}
