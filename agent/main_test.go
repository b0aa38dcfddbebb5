package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// agent is the program under test, built once: these tests run it as a user does.
var agent string

func TestMain(m *testing.M) {
	fixture.Main(m, &agent, fixture.Agent)
}

// result is a finished run.
type result struct {
	code           int
	stdout, stderr string
}

// callLimit ends a program that should have ended by itself.
const callLimit = 30 * time.Second

// call runs the program to its end.
func call(t testing.TB, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	limit := time.AfterFunc(callLimit, func() { _ = cmd.Cancel() })
	defer limit.Stop()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// command prepares a run that uses no file of the real user's and ends with the test.
func command(t testing.TB, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), agent, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_STATE_HOME=")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// server is a running serve or mount.
type server struct {
	ready
	t      testing.TB
	cmd    *exec.Cmd
	stderr *bytes.Buffer // not to be read before end
	line   string        // the first of standard output
	ended  bool
}

// launch starts serve or mount and returns it with its standard output.
func launch(t testing.TB, args ...string) (*server, io.Reader) {
	t.Helper()
	return launchCommand(t, command(t, args...))
}

func launchCommand(t testing.TB, c *exec.Cmd) (*server, io.Reader) {
	t.Helper()
	s := &server{t: t, cmd: c, stderr: &bytes.Buffer{}}
	s.cmd.Stderr = s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// By hand, so that it unmounts before TempDir is removed.
	t.Cleanup(func() {
		if !s.ended {
			s.stop()
		}
	})
	return s, out
}

// start runs serve or mount until the ready line.
func start(t testing.TB, args ...string) *server {
	t.Helper()
	return startCommand(t, command(t, args...))
}

func startCommand(t testing.TB, c *exec.Cmd) *server {
	t.Helper()
	s, out := launchCommand(t, c)
	r := bufio.NewReader(out)
	var err error
	if s.line, err = r.ReadString('\n'); err != nil {
		_ = s.cmd.Wait()
		s.ended = true
		t.Fatalf("%q did not become ready: %v\n%s", c.Args, err, s.stderr)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return s
}

// serve starts serve --json on free ports with a state folder of its own.
func serve(t testing.TB, args ...string) *server {
	t.Helper()
	args = append([]string{"serve", "--json", "--listen-ssh", "127.0.0.1:0", "--listen-https", "127.0.0.1:0", "--state",
		filepath.Join(t.TempDir(), "state")}, args...)
	return serveCommandLine(t, command(t, args...))
}

// serveCommandLine is serve for a command line that has --json.
func serveCommandLine(t testing.TB, c *exec.Cmd) *server {
	t.Helper()
	s := startCommand(t, c)
	if err := json.Unmarshal([]byte(s.line), &s.ready); err != nil {
		t.Fatalf("ready line %q: %v", s.line, err)
	}
	return s
}

// stop sends SIGTERM and returns the exit code.
func (s *server) stop() int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		s.t.Errorf("signal: %v", err)
	}
	return s.wait()
}

func (s *server) wait() int {
	_ = s.cmd.Wait()
	s.ended = true
	return s.cmd.ProcessState.ExitCode()
}

// sftp runs batch commands with OpenSSH's client, which checks the host key strictly.
func (s *server) sftp(commands string, more ...string) (string, error) {
	s.t.Helper()
	fixture.Need(s.t, "sftp")
	host, port := s.host()
	args := append([]string{"-q", "-b", "-", "-F", "none", "-i", s.SSH.IdentityFile, "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=none", "-o", "UserKnownHostsFile=" + s.SSH.KnownHostsFile,
		"-P", port}, more...)
	cmd := exec.CommandContext(s.t.Context(), "sftp", append(args, s.SSH.User+"@"+host)...)
	cmd.Stdin = strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// curl fetches a path below the server's URL.
func (s *server) curl(path string, more ...string) (string, error) {
	s.t.Helper()
	fixture.Need(s.t, "curl")
	password, err := os.ReadFile(s.HTTPS.PasswordFile)
	if err != nil {
		s.t.Fatal(err)
	}
	args := append([]string{"-sSf", "--noproxy", "*", "--cacert", s.HTTPS.CAFile, "-u", s.HTTPS.User + ":" + strings.TrimSpace(string(password))}, more...)
	cmd := exec.CommandContext(s.t.Context(), "curl", append(args, s.HTTPS.URL+path)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return string(out), err
}

// mountpoint returns an empty folder for a FUSE mount.
func mountpoint(t testing.TB) string {
	t.Helper()
	fixture.NeedRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no /dev/fuse")
	}
	return t.TempDir()
}

// mounted tells whether a file system is mounted at dir.
func mounted(t testing.TB, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}

// guest makes an ext4 image of a small system, 8 MiB.
func guest(t testing.TB) string {
	t.Helper()
	src := t.TempDir()
	for name, content := range map[string]string{"etc/hosts": "127.0.0.1 localhost\n", "etc/os-release": "ID=test\n", "srv/data": strings.Repeat("data\n", 10000)} {
		path := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return fixture.Ext4(t, src, 8<<20)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// bigDisk makes a raw disk image of incompressible bytes.
func bigDisk(t testing.TB, size int) (path, sha string) {
	t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	path = filepath.Join(t.TempDir(), "big.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, sum(b)
}
