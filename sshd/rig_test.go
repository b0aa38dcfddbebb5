package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// rig is a running server and what a client needs for it.
type rig struct {
	t        testing.TB
	addr     string
	host     string
	port     string
	dir      string
	signer   gossh.Signer
	hostKey  gossh.Signer
	counters *tree.Counters
	stop     context.CancelFunc
	done     chan error // Serve's result
}

func newSigner(t testing.TB, path string) gossh.Signer {
	t.Helper()
	priv, pub, err := NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	if path != "" {
		if err := os.WriteFile(path, priv, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".pub", pub, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := gossh.ParsePrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve starts a server for tr; change may alter its configuration.
func serve(t testing.TB, tr *tree.Tree, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), counters: &tree.Counters{}, done: make(chan error, 1)}
	r.signer, r.hostKey = newSigner(t, r.key()), newSigner(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	r.host, r.port, _ = net.SplitHostPort(r.addr)
	known := fmt.Sprintf("[%s]:%s %s", r.host, r.port, gossh.MarshalAuthorizedKey(r.hostKey.PublicKey()))
	if err := os.WriteFile(filepath.Join(r.dir, "known_hosts"), []byte(known), 0o644); err != nil {
		t.Fatal(err)
	}
	c := Config{User: "oadp", AuthorizedKeys: []AuthorizedKey{{Key: r.signer.PublicKey()}}, HostKey: r.hostKey, Counters: r.counters, Version: "test 1-2"}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- Serve(ctx, l, tr, c) }()
	t.Cleanup(func() { cancel(); _ = r.wait() })
	return r
}

// wait returns Serve's result.
func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(20 * time.Second):
		r.t.Error("Serve did not return")
		return errors.New("timeout")
	}
}

func (r *rig) key() string { return filepath.Join(r.dir, "id") }

// options are those of ssh, sftp and sshfs for the pinned host key and the test's key.
func (r *rig) options(more ...string) []string {
	o := []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + filepath.Join(r.dir, "known_hosts"),
		"-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=" + r.key(), "-o", "Port=" + r.port, "-o", "LogLevel=INFO",
	}
	return append(o, more...)
}

// run runs a client and returns what it printed and its exit status.
func (r *rig) run(stdin, name string, args ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	fixture.Need(r.t, name)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "SSH_AUTH_SOCK=")
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Dir = r.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("%s: %v", name, err)
	}
	if ctx.Err() != nil {
		r.t.Fatalf("%s %q hangs\n%s%s", name, args, out.String(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ssh runs OpenSSH's ssh.
func (r *rig) ssh(args ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	return r.run("", "ssh", append(r.options(), append([]string{"oadp@" + r.host}, args...)...)...)
}

// sftp runs OpenSSH's sftp with a batch; a line that begins with - may fail.
func (r *rig) sftp(batch ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	return r.run(strings.Join(batch, "\n")+"\n", "sftp", append(r.options("-q", "-b", "-"), "oadp@"+r.host)...)
}

// mustSFTP is sftp that succeeds.
func (r *rig) mustSFTP(batch ...string) string {
	r.t.Helper()
	out, errs, status := r.sftp(batch...)
	if status != 0 {
		r.t.Fatalf("sftp %q: status %d\n%s%s", batch, status, out, errs)
	}
	return out
}

// dial connects with x/crypto/ssh.
func (r *rig) dial() (*gossh.Client, error) {
	return gossh.Dial("tcp", r.addr, &gossh.ClientConfig{
		User: "oadp", Auth: []gossh.AuthMethod{gossh.PublicKeys(r.signer)},
		HostKeyCallback: gossh.FixedHostKey(r.hostKey.PublicKey()), Timeout: 10 * time.Second,
	})
}

// client is Go's own SFTP client.
func (r *rig) client(opts ...sftp.ClientOption) *sftp.Client {
	r.t.Helper()
	c, err := r.dial()
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := sftp.NewClient(c, opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close(); c.Close() })
	return s
}

// write makes a file below dir, with the folders on the way.
func write(t testing.TB, dir, name, content string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, r io.Reader, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
