// Package pull fetches a machine's files with the clients that people use: OpenSSH's sftp and scp,
// rsync, curl and Chromium, and compares what arrives with what the kernel showed.
//
// Invariant: no client is told to trust what it does not know. SSH checks the host's key by a
// known_hosts file, HTTPS the certificate by its authority.
package pull

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Server is where files are served, and what a client has to know of it.
type Server struct {
	Host  string // the name by which clients know it; its certificate has it
	SSH   string // host:port to connect to
	HTTPS string // host:port to connect to

	User    string // of SSH
	Key     string // path of the private key
	HostKey string // the server's, as a line of known_hosts without the host

	Login, Password string // of HTTPS
	CA              string // certificates, PEM

	limit int // of SFTP, in megabits a second; 0: none
}

// knownHosts writes a known_hosts file with the server alone and returns its path.
func (s Server) knownHosts(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, []byte(s.Host+" "+s.HostKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sshOptions are those of OpenSSH's clients. The address is where the port is forwarded to, perhaps;
// the key is looked up by the server's own name.
func (s Server) sshOptions(t testing.TB) []string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.SSH)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-F", "none", "-oPort=" + port, "-oIdentityFile=" + s.Key, "-oIdentitiesOnly=yes", "-oBatchMode=yes", "-oConnectTimeout=15",
		"-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=" + s.knownHosts(t), "-oGlobalKnownHostsFile=none", "-oHostKeyAlias=" + s.Host, "-oLogLevel=ERROR"}
}

// target is user@host, or user@[host] for an IPv6 address.
func (s Server) target() string {
	host, _, _ := net.SplitHostPort(s.SSH)
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return s.User + "@" + host
}

// SFTP runs the commands of a batch and returns what sftp prints.
func (s Server) SFTP(ctx context.Context, t testing.TB, commands ...string) (string, error) {
	t.Helper()
	options := s.sshOptions(t)
	if s.limit > 0 {
		options = append(options, "-l", strconv.Itoa(s.limit*1000)) // kilobits
	}
	cmd := exec.CommandContext(ctx, "sftp", append(options, "-b", "-", s.target())...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("sftp: %w\n%s", err, out)
	}
	return string(out), err
}

// SSHCommand asks for a command to be run.
func (s Server) SSHCommand(ctx context.Context, t testing.TB, command string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(ctx, "ssh", append(s.sshOptions(t), s.target(), command)...).CombinedOutput()
	return string(out), err
}

// Get is sftp's recursive download of a folder, with times and modes, into a new directory.
func (s Server) Get(t testing.TB, remote string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := s.SFTP(t.Context(), t, fmt.Sprintf("get -pr %q %q", remote, dir)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, filepath.Base(remote))
}

// SCP copies a folder, with times and modes, into a new directory; legacy is the protocol of
// clients before OpenSSH 9.
func (s Server) SCP(t testing.TB, remote string, legacy bool) string {
	t.Helper()
	dir, args := t.TempDir(), []string{"-rpq"}
	if legacy {
		args = append(args, "-O")
	}
	run(t, "scp", append(append(args, s.sshOptions(t)...), s.target()+":"+remote, dir)...)
	return filepath.Join(dir, filepath.Base(remote))
}

// Rsync mirrors a folder with everything that rsync can carry into a new directory.
func (s Server) Rsync(t testing.TB, remote string, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	ssh := "ssh " + strings.Join(s.sshOptions(t), " ")
	args := append([]string{"-aHAXSs", "--numeric-ids", "-e", ssh}, options...)
	run(t, "rsync", append(args, s.target()+":"+remote+"/", dir)...)
	return dir
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Limit is the server for clients that take at most so many megabits a second from it by SFTP.
func (s Server) Limit(megabits int) Server {
	s.limit = megabits
	return s
}
