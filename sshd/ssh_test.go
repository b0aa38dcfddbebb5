package sshd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/test/fixture"
)

func TestOnlySFTP(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	message := fmt.Sprintf("this server offers sftp, scp and rsync only: sftp -P %s oadp@%s\r\n", r.port, r.host)
	for name, args := range map[string][]string{
		"shell": {"-T"}, "exec": {"-T", "--", "ls", "-l"}, "agent": {"-A", "-T", "--", "env"},
		"env": {"-o", "SetEnv=A=b", "-T"}, "x11": {"-X", "-T"},
	} {
		out, errs, status := r.run("", "ssh", sshArgs(r, args)...)
		if status == 0 || !strings.Contains(errs, message) || out != "" {
			t.Errorf("%s: status %d, %q, %q", name, status, out, errs)
		}
	}
	if _, errs, status := r.run("", "ssh", sshArgs(r, []string{"-s", "-T", "--", "netconf"})...); status == 0 || !strings.Contains(errs, "subsystem request failed") {
		t.Errorf("subsystem: status %d, %q", status, errs)
	}
	// As a person types it, in a terminal.
	command := "ssh '" + strings.Join(append(r.options(), "oadp@"+r.host), "' '") + "'"
	if out, _, status := r.run("", "script", "-qec", command, "/dev/null"); status == 0 || !strings.Contains(out, strings.TrimSpace(message)) {
		t.Errorf("in a terminal: status %d, %q", status, out)
	}
	// scp of OpenSSH 9 is sftp; the old protocol is a command.
	if out, errs, status := r.run("", "scp", append(r.options(), "oadp@"+r.host+":/README.txt", "copy")...); status != 0 {
		t.Errorf("scp: %d %s%s", status, out, errs)
	}
	if _, errs, status := r.run("", "scp", append(r.options("-O"), "oadp@"+r.host+":/README.txt", "copy")...); status != 0 {
		t.Errorf("scp -O: %d %q", status, errs)
	}
}

// sshArgs puts ssh's options before the host and the command after it.
func sshArgs(r *rig, args []string) []string {
	opts, command := args, []string(nil)
	for i, a := range args {
		if a == "--" {
			opts, command = args[:i], args[i+1:]
			break
		}
	}
	return append(append(r.options(opts...), "oadp@"+r.host), command...)
}

func TestForwardingIsRefused(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	// A listener that nobody may reach through the server.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, errs, status := r.run("", "ssh", sshArgs(r, []string{"-T", "-W", l.Addr().String()})...)
	if status == 0 || !strings.Contains(errs, "administratively prohibited: this server offers sftp, scp and rsync only, no forwarding") {
		t.Errorf("-W: %d %q", status, errs)
	}
	_, errs, status = r.run("", "ssh", sshArgs(r, []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:" + l.Addr().String()})...)
	if status == 0 || !strings.Contains(errs, "remote port forwarding failed") {
		t.Errorf("-R: %d %q", status, errs)
	}
	_, errs, status = r.run("", "ssh", sshArgs(r, []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", filepath.Join(r.dir, "s") + ":" + l.Addr().String()})...)
	if status == 0 || !strings.Contains(errs, "remote port forwarding failed") {
		t.Errorf("-R of a socket: %d %q", status, errs)
	}
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, kind := range []string{"direct-tcpip", "forwarded-tcpip", "direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com", "nonsense"} {
		if _, _, err := c.OpenChannel(kind, make([]byte, 64)); err == nil || !strings.Contains(err.Error(), "sftp, scp and rsync only") {
			t.Errorf("channel %s: %v", kind, err)
		}
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pty-req", "env", "x11-req", "auth-agent-req@openssh.com", "break", "nonsense"} {
		if ok, err := s.SendRequest(kind, true, make([]byte, 64)); ok || err != nil {
			t.Errorf("request %s: %v, %v", kind, ok, err)
		}
	}
}

func TestLogin(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	denied := func(name string, args ...string) {
		t.Helper()
		_, errs, status := r.run("", "ssh", append(r.options("-T"), args...)...)
		if status == 0 || !strings.Contains(errs, "Permission denied (publickey).") {
			t.Errorf("%s: %d %q", name, status, errs)
		}
	}
	denied("wrong user", "root@"+r.host)
	denied("empty user", "-l", " ", r.host)
	good := r.dir
	other := t.TempDir()
	newSigner(t, filepath.Join(other, "id"))
	write(t, other, "known_hosts", readFile(t, filepath.Join(good, "known_hosts")))
	r.dir = other
	denied("wrong key", "oadp@"+r.host)
	r.dir = good
	denied("password", "-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=no", "oadp@"+r.host)
	for name, method := range map[string]gossh.AuthMethod{
		"password": gossh.Password("x"), "keyboard": gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }),
	} {
		if _, err := gossh.Dial("tcp", r.addr, &gossh.ClientConfig{User: "oadp", Auth: []gossh.AuthMethod{method}, HostKeyCallback: gossh.InsecureIgnoreHostKey()}); err == nil {
			t.Errorf("%s logs in", name)
		}
	}
	// Another server's key under this address must stop the client: the pinned key is real.
	write(t, r.dir, "known_hosts", fmt.Sprintf("[%s]:%s %s", r.host, r.port, gossh.MarshalAuthorizedKey(newSigner(t, "").PublicKey())))
	if _, errs, status := r.ssh("-T"); status == 0 || !strings.Contains(errs, "HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("a changed host key: %d %q", status, errs)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUserKeyTypes(t *testing.T) {
	fixture.Need(t, "ssh-keygen")
	for kind, args := range map[string][]string{"rsa": {"-b", "2048"}, "ecdsa": {"-b", "384"}, "ed25519": nil} {
		dir := t.TempDir()
		fixture.Run(t, "ssh-keygen", append([]string{"-q", "-N", "", "-t", kind, "-f", filepath.Join(dir, "id")}, args...)...)
		pub, _, err := ParseAuthorizedKeys([]byte(readFile(t, filepath.Join(dir, "id.pub"))))
		if err != nil {
			t.Fatal(err)
		}
		r := serve(t, hostTree(t, newHostFS(dir)), func(c *Config) { c.AuthorizedKeys = pub })
		_, errs, status := r.run("ls\n", "sftp", append(r.options("-b", "-", "-i", filepath.Join(dir, "id")), "oadp@"+r.host)...)
		if status != 0 {
			t.Errorf("%s: %s", kind, errs)
		}
		if kind != "rsa" {
			continue
		}
		// RSA with SHA-1 is refused although the key is the right one.
		_, errs, status = r.run("ls\n", "sftp", append(r.options("-b", "-", "-o", "PubkeyAcceptedAlgorithms=ssh-rsa", "-i", filepath.Join(dir, "id")), "oadp@"+r.host)...)
		if status == 0 {
			t.Errorf("ssh-rsa with SHA-1 logs in: %s", errs)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	for _, o := range []string{
		"KexAlgorithms=diffie-hellman-group14-sha1", "KexAlgorithms=diffie-hellman-group14-sha256", "KexAlgorithms=ecdh-sha2-nistp256", "Ciphers=aes128-cbc",
		"Ciphers=aes192-ctr", "Ciphers=3des-cbc", "HostKeyAlgorithms=ssh-rsa", "HostKeyAlgorithms=rsa-sha2-256,ecdsa-sha2-nistp256",
	} {
		_, errs, status := r.run("", "ssh", sshArgs(r, []string{"-T", "-o", o})...)
		if status == 0 || !strings.Contains(errs, "no matching") {
			t.Errorf("%s: %d %q", o, status, errs)
		}
	}
	for _, o := range []string{"KexAlgorithms=curve25519-sha256", "KexAlgorithms=curve25519-sha256@libssh.org", "Ciphers=aes256-gcm@openssh.com", "Ciphers=chacha20-poly1305@openssh.com", "Ciphers=aes128-gcm@openssh.com", "Ciphers=aes256-ctr"} {
		if _, errs, status := r.run("ls\n", "sftp", append(r.options("-b", "-", "-o", o), "oadp@"+r.host)...); status != 0 {
			t.Errorf("%s: %q", o, errs)
		}
	}
	out, errs, _ := r.run("ls\n", "sftp", append(r.options("-vv", "-b", "-"), "oadp@"+r.host)...)
	for _, want := range []string{"remote software version vmfr_test_1_2", "kex-strict-s-v00@openssh.com"} {
		if !strings.Contains(out+errs, want) {
			t.Errorf("-vv lacks %q", want)
		}
	}
	// The post-quantum exchange, which OpenSSH knows from 9.9 on.
	c, err := gossh.Dial("tcp", r.addr, &gossh.ClientConfig{
		Config: gossh.Config{KeyExchanges: []string{gossh.KeyExchangeMLKEM768X25519}}, User: "oadp",
		Auth: []gossh.AuthMethod{gossh.PublicKeys(r.signer)}, HostKeyCallback: gossh.FixedHostKey(r.hostKey.PublicKey()), Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
