package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/tree"
	"vmfr/fusefs"
	"vmfr/test/fixture"
)

// TestMain is the program that the tests start, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// start starts a jail for program, with an ext4 image at /backups/b/d that holds files of src.
func startJail(t testing.TB, program, src string) *Jail {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "mke2fs")
	tr, err := tree.New(t.Context(), tree.Config{
		Backups: []tree.Backup{{Name: "b", VM: "vm", Timestamp: time.Unix(1e9, 0),
			Disks: []tree.Disk{{Name: "d", Source: "d.raw", Format: "raw", Reader: fixture.OpenRaw(t, fixture.Ext4(t, src, 16<<20))}}}},
		Engines: engine.Native(), Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := Start(program)
	if err != nil {
		t.Fatal(err)
	}
	s, err := fusefs.Serve(j.Device(), tr, fusefs.Options{AllowOther: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = j.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Wait(ctx); err != nil {
			t.Errorf("the mount is still there: %v", err)
		}
		_ = tr.Close()
	})
	return j
}

// probe builds a static program from testdata, which stands in for a hostile rsync.
func probe(t testing.TB) string {
	t.Helper()
	fixture.Need(t, "gcc")
	p := filepath.Join(t.TempDir(), "rsync")
	fixture.Run(t, "gcc", "-static", "-O1", "-o", p, "testdata/probe.c")
	return p
}

// args is the least that is accepted; what tells the probe what to do.
func args(what string) []string {
	return []string{"rsync", "--server", "--sender", "--info=" + what, mark(os.Getpid()), ".", "/backups"}
}

// mark tells the runs of one test process from those of others on this machine.
func mark(pid int) string { return fmt.Sprintf("--checksum-seed=%d", 100_000_000+pid) } // none begins with another

func ask(t testing.TB, j *Jail, what string) (string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	exit, err := j.Run(t.Context(), args(what), strings.NewReader(""), &out, &errs)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return out.String() + errs.String(), exit
}

// TestHostile replaces rsync by a program that tries to get out.
func TestHostile(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "secret"), []byte("of the guest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(src, "secret"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(src, "absolute")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../etc/hostname", filepath.Join(src, "relative")); err != nil {
		t.Fatal(err)
	}
	j := startJail(t, probe(t), src)
	got, exit := ask(t, j, "look")
	if exit != 0 {
		t.Fatalf("status %d\n%s", exit, got)
	}
	facts := map[string]string{}
	for line := range strings.Lines(got) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		facts[k] = v
	}
	for k, want := range map[string]string{
		"uid": "65534 65534 65534", "gid": "65534 65534 65534", "groups": "0", "pid": "1", "ppid": "0",
		"capabilities": "0 0 0", "bounding": "0", "nonewprivs": "1", "seccomp": "2",
		"root":        "README.txt backups dev METADATA.json restores", // and the program's folder, see below
		"/etc/passwd": "No such file or directory", "/proc/self/status": "No such file or directory", "/sys": "No such file or directory",
		"/etc/hostname": "No such file or directory", "/usr": "No such file or directory",
		"/backups/b/d/absolute": "No such file or directory", "/backups/b/d/relative": "No such file or directory",
		"/backups/b/d/secret":       "of the guest",
		"create /x":                 "Read-only file system",
		"create /backups/x":         "Read-only file system",
		"create /dev/x":             "Read-only file system",
		"write /backups/b/d/secret": "Read-only file system",
		"chmod /backups/b/d/secret": "Read-only file system",
		"remount":                   "Operation not permitted", "unshare user": "Operation not permitted", "unshare net": "Operation not permitted",
		"clone user": "Operation not permitted", "clone3": "Function not implemented", "socket": "Operation not permitted", "ptrace": "Operation not permitted",
		"setuid": "Operation not permitted", "chroot": "Operation not permitted", "mknod": "Read-only file system",
		"hostname": "vmfr", "kill host": "No such process", "descriptors": "3", "filesize": "File too large", "memory": "Cannot allocate memory",
	} {
		if k == "root" {
			continue
		}
		if v, ok := facts[k]; !ok || v != want {
			t.Errorf("%s: %q, want %q", k, v, want)
		}
	}
	if r := facts["root"]; !strings.Contains(r, ".vmfr-") && r != "Permission denied" {
		t.Errorf("root: %q", r)
	}
	if n := facts["forks"]; n == "" || len(n) > 1 || n > "4" {
		t.Errorf("%q processes", n)
	}
	// The host is as it was.
	for _, m := range mounts(t) {
		if strings.Contains(m, "/run/tree") || strings.Contains(m, "/run/root") {
			t.Errorf("a mount is seen outside: %s", m)
		}
	}
}

func mounts(t testing.TB) []string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// hangs starts a run that never ends by itself and returns when it has begun.
func hangs(ctx context.Context, t testing.TB, j *Jail) <-chan int {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		exit, _ := j.Run(ctx, args("hang"), strings.NewReader(""), w, io.Discard)
		_ = w.Close()
		done <- exit
	}()
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return done
}

// processes counts those whose command line holds text.
func processes(t testing.TB, text string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(text)) {
			n++
		}
	}
	return n
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestKilled: a run ends with its context, and all runs with the starter, also when that or the
// server is killed.
func TestKilled(t *testing.T) {
	p := probe(t)
	j := startJail(t, p, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	done := hangs(ctx, t, j)
	if n := processes(t, mark(os.Getpid())); n == 0 {
		t.Fatal("nothing runs")
	}
	cancel()
	if exit := <-done; exit != -1 {
		t.Errorf("status %d", exit)
	}
	eventually(t, "the run goes on without its client", func() bool { return processes(t, mark(os.Getpid())) == 0 })
	done = hangs(t.Context(), t, j)
	if err := j.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := <-done; exit != -1 {
		t.Errorf("status %d", exit)
	}
	eventually(t, "the run goes on without the starter", func() bool { return processes(t, mark(os.Getpid())) == 0 })
	if _, err := j.Run(t.Context(), args("look"), strings.NewReader(""), io.Discard, io.Discard); err == nil {
		t.Error("a run without a starter")
	}
}

// TestServerKilled kills a server with SIGKILL while a program runs.
func TestServerKilled(t *testing.T) {
	if os.Getenv("VMFR_JAIL_SERVER") != "" {
		j := startJail(t, os.Getenv("VMFR_JAIL_SERVER"), t.TempDir())
		hangs(t.Context(), t, j)
		_, _ = os.Stdout.WriteString("up\n")
		select {}
	}
	fixture.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestServerKilled$")
	cmd.Env = append(os.Environ(), "VMFR_JAIL_SERVER="+probe(t), "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if n := processes(t, mark(cmd.Process.Pid)); n == 0 {
		t.Fatal("nothing runs")
	}
	fixture.Need(t, "ps")
	starter := strings.TrimSpace(fixture.Run(t, "ps", "-o", "pid=", "--ppid", strconv.Itoa(cmd.Process.Pid)))
	if _, err := strconv.Atoi(starter); err != nil {
		t.Fatalf("the starter: %q", starter)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "processes are left", func() bool { return processes(t, mark(cmd.Process.Pid)) == 0 && gone(starter) })
}

// gone tells that a process has ended, whether or not somebody has waited for it.
func gone(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestForkBomb: what a run starts is limited, and ends with it.
func TestForkBomb(t *testing.T) {
	j := startJail(t, probe(t), t.TempDir())
	got, _ := ask(t, j, "orphans") // ends while its children sleep
	if !strings.Contains(got, "forked") {
		t.Fatal(got)
	}
	eventually(t, "children are left", func() bool { return processes(t, mark(os.Getpid())) == 0 })
}

func TestChecks(t *testing.T) {
	j := startJail(t, "rsync", t.TempDir())
	for _, a := range [][]string{{"rsync", "--daemon"}, {"sh", "-c", "id"}, nil, {"rsync", "--server", ".", "/backups"}} {
		if _, err := j.Run(t.Context(), a, strings.NewReader(""), io.Discard, io.Discard); err == nil {
			t.Errorf("%q runs", a)
		}
		// And the starter refuses what a server lets through.
		r, err := j.request(a)
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := receive(r.ctl, 4096, 0)
		if err != nil || !strings.Contains(string(b), "rsync: ") {
			t.Errorf("%q: %s, %v", a, b, err)
		}
		closeAll([]*os.File{r.stdin, r.stdout, r.stderr, r.ctl})
	}
	// What is no request ends the starter rather than confuse it.
	if err := send(j.sock, []byte("rsync")); err != nil {
		t.Fatal(err)
	}
	<-j.Done()
}

func TestUnavailable(t *testing.T) {
	fixture.NeedRoot(t)
	if _, err := Start("/nonexistent/rsync"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "install the package rsync") {
		t.Errorf("%v", err)
	}
	script := filepath.Join(t.TempDir(), "rsync")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(script); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a script: %v", err)
	}
	// Without CAP_SYS_ADMIN, as in a container.
	if os.Getenv("VMFR_JAIL_BARE") != "" {
		_, err := Start("rsync")
		_, _ = os.Stdout.WriteString("\n" + err.Error() + "\n")
		return
	}
	fixture.Need(t, "capsh", "rsync")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("capsh", "--drop=cap_sys_admin", "--", "-c", exe+" -test.run='^TestUnavailable$'")
	cmd.Env = append(os.Environ(), "VMFR_JAIL_BARE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "rsync is not offered: this process may not make namespaces") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestHoldsNoMounts unmounts a file system that was there before the jail, which keeps nothing of
// it: its device is free at once.
func TestHoldsNoMounts(t *testing.T) {
	img := fixture.Ext4(t, t.TempDir(), 16<<20)
	dir := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	j := startJail(t, probe(t), t.TempDir())
	fixture.Unmount(t, dir)
	if got, exit := ask(t, j, "look"); exit != 0 { // the jail was there all the time
		t.Errorf("status %d\n%s", exit, got)
	}
}
