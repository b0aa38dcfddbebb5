package sshd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/test/fixture"
)

// many is a folder with what clients have trouble with.
func many(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range []string{"a b", "star*", "q'uote", `back\slash`, "bad\xff\xfename", "ünï", "$dollar", "sub/deep/one", "sub/two", "semi;colon"} {
		write(t, dir, n, "content of "+n)
	}
	big := make([]byte, 5<<20+13)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	write(t, dir, "big", string(big))
	write(t, dir, "empty", "")
	if err := os.Symlink("sub", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "sub/two"), 0o640); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(981173106, 0)
	for _, n := range []string{"sub/two", "sub/deep", "big"} {
		if err := os.Chtimes(filepath.Join(dir, n), when.Add(time.Hour), when); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sameFiles compares regular files below two folders, without times.
func sameFiles(t *testing.T, what, want, got string, skip ...string) {
	t.Helper()
	n := 0
	_ = filepath.WalkDir(want, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(want, p)
		for _, s := range skip {
			if rel == s {
				return nil
			}
		}
		n++
		a, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(got, rel))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %q differs: %d and %d bytes, %v", what, rel, len(a), len(b), err)
		}
		return nil
	})
	if n < 8 {
		t.Errorf("%s: %d files only", what, n)
	}
}

// TestLegacySCP uses the old protocol of OpenSSH's scp.
func TestLegacySCP(t *testing.T) {
	src := many(t)
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	scp := func(args ...string) (string, int) {
		t.Helper()
		for i, a := range args {
			if strings.HasPrefix(a, ":") {
				args[i] = "oadp@" + r.host + a
			}
		}
		out, errs, status := r.run("", "scp", append(r.options("-O"), args...)...)
		return out + errs, status
	}
	if out, status := scp("-r", "-p", ":/backups/b/d", "all"); status != 0 {
		t.Errorf("-r: %d %s", status, out)
	}
	all := filepath.Join(r.dir, "all")
	sameFiles(t, "-r -p", src, all)
	for _, n := range []string{"sub/two", "sub/deep", "big"} {
		a, err := os.Stat(filepath.Join(src, n))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(filepath.Join(all, n))
		if err != nil || !a.ModTime().Equal(b.ModTime()) || a.Mode() != b.Mode() {
			t.Errorf("-p: %s: %v, %v", n, b, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(all, "link/two")); string(b) != "content of sub/two" {
		t.Errorf("a link is not followed: %q", b)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{`:"/backups/b/d/a b"`, "x/"}, []string{"a b"}},
		{[]string{`:/backups/b/d/a\ b`, `:'/backups/b/d/star*'`, `:/backups/b/d/q\'uote`, "x/"}, []string{"a b", "star*", "q'uote"}},
		{[]string{":/backups/b/d/sub/t*", ":/backups/b/d/ba[c]k*", "x/"}, []string{"two", `back\slash`}},
		{[]string{":/backups/b/d/bad*", "x/"}, []string{"bad\xff\xfename"}},
		{[]string{":'/backups/b/d/bad\xff\xfename'", ":'/backups/b/d/$dollar'", `:/backups/b/d/semi\;colon`, "x/"}, []string{"bad\xff\xfename", "$dollar", "semi;colon"}},
		{[]string{":backups/b/d/empty", ":README.txt", ":~/METADATA.json", "x/"}, []string{"empty", "README.txt", "METADATA.json"}},
	} {
		_ = os.RemoveAll(filepath.Join(r.dir, "x"))
		if err := os.Mkdir(filepath.Join(r.dir, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, status := scp(append([]string{"-T"}, c.args...)...) // else the client compares names with its own quotes
		if status != 0 {
			t.Errorf("%q: %d %s", c.args, status, out)
		}
		for _, n := range c.want {
			if _, err := os.Stat(filepath.Join(r.dir, "x", n)); err != nil {
				t.Errorf("%q: %v", c.args, err)
			}
		}
	}
	for want, args := range map[string][]string{
		"backups are read-only":                   {r.key(), ":/backups/b/d/"},
		"it is a folder; use scp -r":              {":/backups/b/d/sub", "x/"},
		"no such file":                            {":/backups/b/d/nothing", "x/"},
		"a command in a command":                  {":/backups/b/d/$(id)", "x/"},
		"not a list of words":                     {":/backups/b/d/big;id", "x/"},
		"a variable":                              {":/backups/b/d/$dollar", "x/"},
		"many symbolic links":                     {"-r", ":/backups/b/d/circle", "x/"},
		"which this protocol cannot carry; use s": {"-r", ":/backups/b/d/odd", "x/"},
	} {
		write(t, src, "odd/new\nline", "x")
		write(t, src, "circle/x", "x")
		_ = os.Symlink(".", filepath.Join(src, "circle/self"))
		if out, status := scp(args...); status == 0 || !strings.Contains(out, want) || strings.Count(strings.TrimSpace(out), "\n") > 1 {
			t.Errorf("%q: %d %q, want %q", args, status, out, want)
		}
	}
	// As older clients do, without a path, and what no client sends.
	for line, want := range map[string]string{"scp": "on your side", "scp -f": "no path", "scp -f -Z x": "-Z", "scp -t": "", "scp /a /b": "on your side"} {
		if out, errs, status := r.ssh("-T", line); status == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: %d %q %q", line, status, out, errs)
		}
	}
}

// TestOtherClients pulls with programs that are not OpenSSH's.
func TestOtherClients(t *testing.T) {
	src := many(t)
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	known := filepath.Join(r.dir, "known_hosts")
	t.Run("lftp", func(t *testing.T) {
		connect := "ssh -a -x '" + strings.Join(r.options(), "' '") + "'"
		script := fmt.Sprintf("set sftp:connect-program \"%s\"; set net:max-retries 1; open sftp://oadp:x@%s:%s; mirror --parallel=3 /backups/b/d %s/lftp; exit", connect, r.host, r.port, r.dir)
		if out, errs, status := r.run("", "lftp", "--norc", "-c", script); status != 0 {
			t.Fatalf("%d %s%s", status, out, errs)
		}
		sameFiles(t, "lftp", src, filepath.Join(r.dir, "lftp"), "bad\xff\xfename") // lftp converts names
	})
	t.Run("rclone", func(t *testing.T) {
		remote := fmt.Sprintf(":sftp,host=%s,port=%s,user=oadp,key_file=%s,known_hosts_file=%s,shell_type=none,disable_hashcheck=true:/backups/b/d", r.host, r.port, r.key(), known)
		if out, errs, status := r.run("", "rclone", "--config", "", "copy", remote, filepath.Join(r.dir, "rclone")); status != 0 {
			t.Fatalf("%d %s%s", status, out, errs)
		}
		sameFiles(t, "rclone", src, filepath.Join(r.dir, "rclone"), "bad\xff\xfename") // rclone encodes it in its own way
	})
	t.Run("paramiko", func(t *testing.T) {
		script := `
import sys, paramiko
host, port, key, known, out = sys.argv[1:]
c = paramiko.SSHClient()
c.load_host_keys(known)
c.connect(host, int(port), "oadp", key_filename=key, allow_agent=False, look_for_keys=False)
s = c.open_sftp()
s.get("/backups/b/d/big", out)
with s.open("/backups/b/d/sub/two") as f:
    assert f.read() == b"content of sub/two"
assert sorted(s.listdir("/backups/b/d/sub")) == ["deep", "two"]
assert s.stat("/backups/b/d/big").st_mtime == 981173106
try:
    s.open("/backups/b/d/new", "w")
    sys.exit("a file can be written")
except PermissionError:
    pass
_, o, e = c.exec_command("id")
assert b"only" in e.read() and o.channel.recv_exit_status() != 0
`
		fixture.Need(t, "/usr/bin/python3")
		if out, errs, status := r.run("", "/usr/bin/python3", "-c", script, r.host, r.port, r.key(), known, filepath.Join(r.dir, "big")); status != 0 {
			t.Fatalf("%d %s%s", status, out, errs)
		}
		a, b := readFile(t, filepath.Join(src, "big")), readFile(t, filepath.Join(r.dir, "big"))
		if a != b {
			t.Error("paramiko: the file differs")
		}
	})
}

// unknownToSSHAudit are the algorithms that Debian's ssh-audit does not know yet and so warns
// about.
var unknownToSSHAudit = []string{"mlkem768x25519-sha256", "kex-strict-s-v00@openssh.com"}

// TestSSHAudit has ssh-audit look for weak algorithms.
func TestSSHAudit(t *testing.T) {
	fixture.Need(t, "ssh-audit")
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	out, errs, _ := r.run("", "ssh-audit", "--no-colors", "--level=warn", "-p", r.port, r.host)
	for line := range strings.Lines(out + errs) {
		if !strings.Contains(line, "[warn]") && !strings.Contains(line, "[fail]") {
			continue
		}
		known := false
		for _, u := range unknownToSSHAudit {
			known = known || strings.Contains(line, u) && strings.Contains(line, "unknown algorithm")
		}
		if !known {
			t.Error(strings.TrimSpace(line))
		}
	}
	js, errs, _ := r.run("", "ssh-audit", "-j", "-p", r.port, r.host)
	var report struct {
		Banner struct{ Software string }
		Kex    []struct{ Algorithm string }
		Enc    []string
	}
	if err := json.Unmarshal([]byte(js), &report); err != nil || len(report.Kex) < 2 || len(report.Enc) != len(ciphers) {
		t.Errorf("%v: %+v\n%s%s", err, report, js, errs)
	}
}

// certificate makes a user certificate for the rig's key.
func (r *rig) certificate(ca string, args ...string) {
	r.t.Helper()
	_ = os.Remove(r.key() + "-cert.pub")
	fixture.Run(r.t, "ssh-keygen", append(append([]string{"-q", "-s", ca, "-I", "somebody"}, args...), r.key()+".pub")...)
}

func TestCertificates(t *testing.T) {
	fixture.Need(t, "ssh-keygen")
	dir := t.TempDir()
	ca, other := filepath.Join(dir, "ca"), filepath.Join(dir, "other")
	cas, err := ParseTrustedUserCAs([]byte("# ours\n" + string(gossh.MarshalAuthorizedKey(newSigner(t, ca).PublicKey()))))
	if err != nil {
		t.Fatal(err)
	}
	newSigner(t, other)
	var records bytes.Buffer
	log := audit.New(&records)
	r := serve(t, hostTree(t, newHostFS(sample(t))), func(c *Config) { c.AuthorizedKeys, c.TrustedUserCAs, c.Audit = nil, cas, log })
	login := func(name string, want bool) {
		t.Helper()
		if _, errs, status := r.sftp("ls /"); (status == 0) != want {
			t.Errorf("%s: status %d %s", name, status, errs)
		}
	}
	login("the key alone", false)
	for _, c := range []struct {
		name string
		want bool
		args []string
	}{
		{"good", true, []string{"-n", "oadp", "-V", "+1h"}},
		{"one of several principals", true, []string{"-n", "x,oadp"}},
		{"here", true, []string{"-n", "oadp", "-O", "source-address=127.0.0.0/8,::1/128"}},
		{"extensions mean nothing", true, []string{"-n", "oadp", "-O", "clear", "-z", "77"}},
		{"another principal", false, []string{"-n", "root"}},
		{"no principal", false, nil},
		{"expired", false, []string{"-n", "oadp", "-V", "20200101:20210101"}},
		{"not yet", false, []string{"-n", "oadp", "-V", "+1h:+2h"}},
		{"elsewhere", false, []string{"-n", "oadp", "-O", "source-address=10.0.0.0/8"}},
		{"a command", false, []string{"-n", "oadp", "-O", "force-command=id"}},
		{"an unknown option", false, []string{"-n", "oadp", "-O", "critical:x@y=z"}},
		{"a host's", false, []string{"-h", "-n", "oadp"}},
	} {
		r.certificate(ca, c.args...)
		login(c.name, c.want)
	}
	r.certificate(other, "-n", "oadp")
	login("another authority", false)
	r.stop()
	_ = r.wait()
	_ = log.Close()
	for _, want := range []string{`"event":"login"`, `certificate \"somebody\" serial 77 of SHA256:`, "its authority is not trusted", "unsupported critical option", `"event":"logout"`} {
		if !strings.Contains(records.String(), want) {
			t.Errorf("the audit log lacks %s\n%s", want, records.String())
		}
	}
	if _, err := ParseTrustedUserCAs([]byte("from=\"*\" " + publicLine(t))); err == nil {
		t.Error("an authority with options")
	}
}

func TestKeyOptions(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		want    bool
	}{
		"here":           {`from="127.0.0.1"`, true},
		"network":        {`from="10.0.0.0/8,127.0.0.0/8"`, true},
		"wildcard":       {`from="127.*.?.1"`, true},
		"excluded":       {`from="127.*,!127.0.0.0/24"`, false},
		"elsewhere":      {`from="192.168.*"`, false},
		"only excluded":  {`from="!10.0.0.1"`, false},
		"future":         {`expiry-time="29991231Z"`, true},
		"past":           {`expiry-time="202001010000"`, false},
		"both":           {`from="*",expiry-time="29991231235959"`, true},
		"both, one past": {`from="*",expiry-time="20200101"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, hostTree(t, newHostFS(sample(t))), func(cfg *Config) {
				line := c.options + " " + string(gossh.MarshalAuthorizedKey(cfg.AuthorizedKeys[0].Key))
				keys, refused, err := ParseAuthorizedKeys([]byte(line))
				if err != nil || len(refused) > 0 {
					t.Fatalf("%v %v", err, refused)
				}
				cfg.AuthorizedKeys = keys
			})
			conn, err := r.dial()
			if (err == nil) != c.want {
				t.Errorf("%v", err)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}

// TestAuditTrail: who read what, byte for byte of the names.
func TestAuditTrail(t *testing.T) {
	var records bytes.Buffer
	log := audit.New(&records)
	src := many(t)
	r := serve(t, hostTree(t, newHostFS(src)), func(c *Config) { c.Audit = log })
	_, _, _ = r.sftp("ls /backups/b/d", "get /backups/b/d/big copy", "-put known_hosts /backups/new")
	_, _, _ = r.run("", "scp", append(r.options("-O", "-T"), "oadp@"+r.host+":'/backups/b/d/bad\xff\xfename'", "copy")...)
	_, _, _ = r.ssh("-T", "rm -rf /")
	r.stop()
	_ = r.wait()
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	text := records.String()
	for _, want := range []string{
		`"path":"/backups/b/d","entries":`, `"path":"/backups/b/d/big","size":5242893,"ranges":[[0,5242893]],"bytes":5242893`,
		`"path":"/backups/b/d/bad\\xff\\xfename","size":`, `"event":"refused"`, `"what":"exec rm -rf /"`, `"what":"open for writing"`,
		`"key":"` + gossh.FingerprintSHA256(r.signer.PublicKey()) + `","address":"127.0.0.1:`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "/backups/b/d/big"); n != 1 {
		t.Errorf("a file that was read once has %d lines", n)
	}
}

func TestIdleTimeout(t *testing.T) {
	const idle = 2 * time.Second
	r := serve(t, hostTree(t, newHostFS(sample(t))), func(c *Config) { c.IdleTimeout = idle; c.Keepalive = idle / 4 })
	last := time.Now() // no later than the server's own last sign of life
	s := r.client()
	for began := last; time.Since(began) < idle+idle/4; time.Sleep(idle / 10) { // in use for longer than the timeout
		asked := time.Now()
		if _, err := s.Stat("/"); err != nil {
			if time.Since(last) < idle {
				t.Fatalf("%v after its last use: %v", time.Since(last), err)
			}
			began = time.Now() // a busy machine did not let us use it in time
			asked, s = began, r.client()
		}
		last = asked
	}
	ended := make(chan struct{})
	go func() { _ = s.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("an idle connection stays open")
	}
}
