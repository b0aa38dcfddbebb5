package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vmfr/agent/image"
	"vmfr/agent/session"
	"vmfr/agent/worker"
	"vmfr/test/fixture"
)

// workerOf is the process id of a serve's worker.
func workerOf(t *testing.T, s *server) string {
	t.Helper()
	for _, pid := range children(t, s.cmd.Process.Pid) {
		if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(b), localCommand) {
			return pid
		}
	}
	t.Fatal("no worker is running")
	return ""
}

// TestSandboxed: what reads images has its own user id, no capability, no file system, no network
// and a filter of system calls.
func TestSandboxed(t *testing.T) {
	fixture.NeedRoot(t)
	s := serve(t, "--sample", "--sandbox", "on")
	pid := workerOf(t, s)
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	uid := strconv.Itoa(firstUID + s.cmd.Process.Pid)
	for _, want := range []string{`Uid:\t` + uid + `\t` + uid, `Gid:\t` + uid, `Groups:\t *$`, `CapInh:\t0+$`, `CapPrm:\t0+$`, `CapEff:\t0+$`, `CapBnd:\t0+$`, `CapAmb:\t0+$`, `NoNewPrivs:\t1`, `Seccomp:\t2`} {
		if !regexp.MustCompile("(?m)^" + want).Match(status) {
			t.Errorf("the worker lacks %q:\n%s", want, status)
		}
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		ours, oerr := os.Readlink("/proc/self/ns/" + ns)
		theirs, terr := os.Readlink("/proc/" + pid + "/ns/" + ns)
		if oerr != nil || terr != nil || ours == theirs {
			t.Errorf("namespace %s: ours %s (%v), the worker's %s (%v)", ns, ours, oerr, theirs, terr)
		}
	}
	root := fixture.Run(t, "find", "/proc/"+pid+"/root/", "-mount", "-type", "f")
	for _, name := range strings.Fields(root) {
		if !strings.HasSuffix(name, "/proc/sys/fs/pipe-max-size") && !strings.HasSuffix(name, "/dev/null") {
			t.Errorf("the worker's root holds %s", name)
		}
	}
	descriptors, err := filepath.Glob("/proc/" + pid + "/fdinfo/*")
	if err != nil || len(descriptors) == 0 {
		t.Fatalf("%v, %v", descriptors, err)
	}
	for _, d := range descriptors {
		to, _ := os.Readlink(strings.Replace(d, "fdinfo", "fd", 1))
		b, err := os.ReadFile(d)
		if err != nil || strings.HasPrefix(to, "/dev/") || strings.Contains(to, "[") || strings.Contains(to, ":") {
			continue // a socket, a pipe, an event
		}
		if !regexp.MustCompile(`(?m)^flags:\s+0[0-7]*0$`).Match(b) {
			t.Errorf("the worker can write to %s:\n%s", to, b)
		}
	}
}

// TestWorkerKilled: a worker that dies is replaced, at the same ports and the same mount.
func TestWorkerKilled(t *testing.T) {
	fixture.Need(t, "curl", "sftp")
	dir := mountpoint(t)
	s := serve(t, "--sample", "--sandbox", "on", "--mount", dir)
	const path = "/backups/nightly-0412/rootdisk/etc/hostname"
	held, err := os.Open(dir + path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for range 2 {
		old := workerOf(t, s)
		fixture.Run(t, "kill", "-9", old)
		if _, err := s.curl("/files"+path, "--retry", "5", "--retry-all-errors", "--retry-delay", "1"); err != nil {
			t.Fatal(err)
		}
		if out, err := s.sftp("ls " + path + "\n"); err != nil {
			t.Errorf("sftp: %v\n%s", err, out)
		}
		if workerOf(t, s) == old {
			t.Fatal("the worker was not killed: the test shows nothing")
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			b, err := os.ReadFile(dir + path)
			if err == nil && string(b) == "webshop\n" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the mount does not come back: %q, %v", b, err)
			}
		}
	}
	if code := s.stop(); code != 0 || mounted(t, dir) {
		t.Errorf("exit code %d, mounted %v\n%s", code, mounted(t, dir), s.stderr)
	}
	if n := strings.Count(s.stderr.String(), "is started again"); n != 2 {
		t.Errorf("%d lines about a dead worker:\n%s", n, s.stderr)
	}
}

// TestSandboxMissing: where a layer cannot be set up, serve says so and goes on, or ends with
// --sandbox on.
func TestSandboxMissing(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "setpriv", "curl")
	for _, test := range []struct{ without, want string }{
		{"sys_admin", "operation not permitted"}, // no namespaces
		{"setuid", "user id: operation not permitted"},
	} {
		t.Run(test.without, func(t *testing.T) {
			t.Parallel()
			args := []string{"serve", "--json", "--sample", "--rsync", "off", "--listen-ssh", "off", "--listen-https", "127.0.0.1:0", "--state", filepath.Join(t.TempDir(), "state")}
			less := func(args ...string) *exec.Cmd {
				c := command(t, args...)
				c.Args = append([]string{"setpriv", "--bounding-set=-" + test.without, "--inh-caps=-" + test.without}, c.Args...)
				var err error
				if c.Path, err = exec.LookPath("setpriv"); err != nil {
					t.Fatal(err)
				}
				return c
			}
			s := serveCommandLine(t, less(args...))
			if out, err := s.curl("/files/backups/nightly-0412/rootdisk/etc/hostname"); err != nil || out != "webshop\n" {
				t.Errorf("%q, %v", out, err)
			}
			if b := s.Sandbox; b.On || len(b.Missing) != 1 || !strings.Contains(b.Missing[0], test.want) {
				t.Errorf("who starts it is told %+v", b)
			}
			if code := s.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if text := s.stderr.String(); strings.Count(text, "images are read without a sandbox") != 1 || !strings.Contains(text, test.want) {
				t.Errorf("the log does not tell what is missing:\n%s", text)
			}
			out, err := less(append(args, "--sandbox", "on")...).CombinedOutput()
			if err == nil || !regexp.MustCompile(`(?m)^vmfr-agent: --sandbox on: .*`+test.want+`\n$`).Match(out) {
				t.Errorf("--sandbox on: %v\n%s", err, out)
			}
		})
	}
}

// TestSandboxedBacking: a backing file beside the image is handed into the sandbox, one elsewhere
// is not.
func TestSandboxedBacking(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "qemu-img", "curl")
	dir := t.TempDir()
	base := filepath.Join(dir, "base.raw")
	if err := os.Rename(guest(t), base); err != nil {
		t.Fatal(err)
	}
	qemu := func(backing, name string) string {
		path := filepath.Join(dir, name)
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", map[bool]string{true: "raw", false: "qcow2"}[strings.HasSuffix(backing, ".raw")], "-b", backing, path)
		return "--disk=b/" + strings.TrimSuffix(name, ".qcow2") + "=" + path + ",format=qcow2"
	}
	qemu("base.raw", "middle.qcow2")
	s := serve(t, "--sandbox", "on", qemu("middle.qcow2", "top.qcow2"), qemu(base, "outside.qcow2"), qemu("middle.qcow2", "missing.qcow2"))
	if out, err := s.curl("/files/backups/b/top/etc/os-release"); err != nil || out != "ID=test\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := s.curl("/files/backups/b/outside/ERROR.txt"); err != nil || !strings.Contains(out, "a path is not followed") {
		t.Errorf("%q, %v", out, err)
	}
	// A later worker gets what the first one got.
	fixture.Run(t, "kill", "-9", workerOf(t, s))
	if out, err := s.curl("/files/backups/b/top/etc/os-release", "--retry", "5", "--retry-all-errors", "--retry-delay", "1"); err != nil || out != "ID=test\n" {
		t.Errorf("after a restart: %q, %v", out, err)
	}
}

// TestBesideRules: what a worker may ask for that has been taken over.
func TestBesideRules(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"top", "base", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "mkfifo", filepath.Join(dir, "pipe"))
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	b := &sandboxed{serving: &serving{log: slog.New(slog.DiscardHandler), disks: &openedDisks{backups: []worker.Backup{
		{Name: "a", Disks: []worker.Disk{{Name: "raw"}}}, {Name: "b", Disks: []worker.Disk{{Name: "d", Dir: root, Source: filepath.Join(dir, "top")}}},
	}}}, asked: map[session.Beside]bool{}}
	ask := func(image int, name string) error {
		f, err := b.beside(session.Beside{Image: image, Name: name})
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	if err := ask(1, "base"); err != nil {
		t.Error(err)
	}
	for _, bad := range []session.Beside{{Image: 0, Name: "base"}, {Image: 2, Name: "base"}, {Image: -1, Name: "base"}, {Image: 1, Name: "pipe"}, {Image: 1, Name: "link"}, {Image: 1, Name: "missing"}, {Image: 1, Name: "."}} {
		if ask(bad.Image, bad.Name) == nil {
			t.Errorf("%+v is opened", bad)
		}
	}
	for i := range 2 * image.MaxChain {
		_ = ask(1, fmt.Sprint(i))
	}
	if ask(1, "other") == nil {
		t.Error("there is no limit")
	}
	b.asked = map[session.Beside]bool{{Image: 1, Name: "base"}: true}
	b.opened = true
	if err := ask(1, "base"); err != nil {
		t.Errorf("a later worker: %v", err)
	}
	if ask(1, "other") == nil {
		t.Error("a new file is opened after all images were")
	}
}

// TestSandboxedAuditFails: who cannot be recorded is not let in, also where another process writes.
func TestSandboxedAuditFails(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "sftp")
	s := serve(t, "--sample", "--sandbox", "on", "--audit-log", "/dev/full")
	_, _ = s.sftp("ls /\n") // the first is what cannot be written
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if out, err := s.sftp("ls /\n"); err != nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("logins go on: %s", out)
		}
	}
	if code := s.stop(); code != 0 || !strings.Contains(s.stderr.String(), "no space left on device") {
		t.Errorf("exit code %d\n%s", code, s.stderr)
	}
}

// TestSandboxedCertificate: a certificate that was renewed reaches the sandbox.
func TestSandboxedCertificate(t *testing.T) {
	t.Parallel()
	fixture.NeedRoot(t)
	fixture.Need(t, "openssl", "curl")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issue := func(name string) []byte {
		fixture.Run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
			"-subj", "/CN="+name, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
		b, err := os.ReadFile(cert)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := issue("first")
	s := serve(t, "--sample", "--sandbox", "on", "--tls-cert", cert, "--tls-key", key)
	s.HTTPS.CAFile = filepath.Join(dir, "trusted.pem")
	trust := func(b []byte) {
		if err := os.WriteFile(s.HTTPS.CAFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(first)
	if _, err := s.curl("/files/README.txt"); err != nil {
		t.Fatal(err)
	}
	second := issue("second")
	if bytes.Equal(first, second) {
		t.Fatal("the same certificate again")
	}
	trust(second)
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		_, err := s.curl("/files/README.txt")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
