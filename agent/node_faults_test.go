package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vmfr/api/files"
	api "vmfr/api/session"
	"vmfr/test/fixture"
)

// TestNodeFaults breaks one part of one session after the other; the other session must not notice.
func TestNodeFaults(t *testing.T) {
	c := newCell(t)
	small, content := c.disk(1 << 20)
	big, bytesOfBig := c.disk(16 << 20)
	records := filepath.Join(smallDisk(t), "audit.jsonl")
	c.agent.kill(unix.SIGTERM)
	c.args = append(c.args, "--audit-log", records, "--worker-patience", "4s")
	c.start()
	a := c.newRestore("a", map[string][]api.Mode{"nightly": {api.Filesystem, api.Filesystem}})
	a.attach("nightly", 0, small)
	a.attach("nightly", 1, big)
	b := c.newRestore("b", map[string][]api.Mode{"nightly": {api.Filesystem}})
	b.attach("nightly", 0, small)
	for _, r := range []*restore{a, b} {
		r.hold("nightly")
		r.hold("")
	}
	a.ready()
	b.ready()

	t.Run("audit", func(t *testing.T) {
		c.t = t
		a.pull("nightly", "disk0", "file", content)
		b.pull("nightly", "disk0", "file", content)
		if out, err := b.sftp(a.identity, "ls /"); err == nil {
			t.Errorf("a key of another session: %s", out)
		}
		eventually(t, func() error {
			lines := auditLines(t, records)
			for _, want := range []auditLine{
				{a, "ssh", "login", ""}, {a, "ssh", "read", "/backups/nightly/disk0/file"}, {a, "https", "read", "/backups/nightly/disk0/file"},
				{b, "ssh", "read", "/backups/nightly/disk0/file"}, {b, "ssh", "refused", ""},
			} {
				if !slices.ContainsFunc(lines, want.is) {
					return fmt.Errorf("%s has no %s %s of %q in %v", want.of.name, want.via, want.event, want.path, lines)
				}
			}
			return nil
		})
		if text, _ := os.ReadFile(records); bytes.Contains(text, []byte(a.password)) {
			t.Error("the audit log has a password")
		}
	})
	t.Run("audit log cannot be written", func(t *testing.T) {
		c.t = t
		filler := filepath.Join(filepath.Dir(records), "filler")
		f, err := os.Create(filler)
		if err == nil {
			_, err = f.Write(make([]byte, 1<<20))
			_ = f.Close()
		}
		if err == nil {
			t.Fatal("the disk is not full")
		}
		until := time.Now().Add(nodePatience)
		for !lostLines.MatchString(c.get("/metrics")) && time.Now().Before(until) {
			a.pull("nightly", "disk0", "file", content) // the service goes on
		}
		if m := c.get("/metrics"); !lostLines.MatchString(m) {
			t.Fatalf("nothing is lost:\n%s", m)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			a.pull("nightly", "disk0", "file", content)
			text, err := os.ReadFile(records)
			if err == nil && !bytes.Contains(text, []byte(`"lost":`)) {
				err = fmt.Errorf("the file does not tell what was lost:\n%s", text)
			}
			return err
		})
	})
	// unharmed calls break and tells whether b went on meanwhile.
	unharmed := func(what func()) {
		c.t.Helper()
		before := b.worker()
		what()
		if now := b.worker(); now != before || !running(now) {
			c.t.Errorf("the other session's worker is %d now, it was %d:\n%s", now, before, c.agent.log)
		}
		b.pull("nightly", "disk0", "file", content)
	}
	t.Run("worker hangs", func(t *testing.T) {
		c.t = t
		unharmed(func() {
			hung := a.worker()
			fixture.Stop(t, hung)
			const killed = "it did not answer for 4s and was killed"
			for _, path := range []string{"/healthz", "/readyz"} { // which do not wait for it
				if got := c.get(path); got != "ok\n" || strings.Contains(c.agent.log.String(), killed) {
					t.Errorf("%s says %q, and the worker's end may have come before:\n%s", path, got, c.agent.log)
				}
			}
			a.pull("nightly", "disk0", "file", content)
			c.agent.waitLog(killed)
			if running(hung) {
				t.Errorf("the worker %d that hung still runs", hung)
			}
			eventually(t, func() error { // it is counted after it is logged
				if m := c.get("/metrics"); !strings.Contains(m, "vmfr_node_workers_hung_total 1\n") {
					return fmt.Errorf("the worker that hung is not counted:\n%s", m)
				}
				return nil
			})
		})
	})
	t.Run("rsync's jail is killed", func(t *testing.T) {
		fixture.Need(t, "rsync")
		c.t = t
		unharmed(func() {
			worker := a.worker()
			jail := c.jailOf(worker)
			out := a.slow("/backups/nightly/disk0/file")
			if err := unix.Kill(jail, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if now := a.worker(); now == worker {
					return fmt.Errorf("the worker was not replaced:\n%s", c.agent.log)
				}
				return nil
			})
			if got, err := a.rsync("/backups/nightly/disk1/file"); err != nil || !bytes.Equal(got, bytesOfBig) {
				t.Errorf("rsync: %d bytes, %v", len(got), err)
			}
			if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the transfer of the worker that was replaced: %d of %d bytes, %v", len(got), len(content), err)
			}
		})
	})
	t.Run("too much memory", func(t *testing.T) {
		c.t = t
		if strings.Contains(c.agent.log.String(), "workers have no memory limit") {
			t.Skip("no control group can be made here")
		}
		unharmed(func() {
			worker := a.worker()
			squeeze(t, worker)
			for running(worker) { // what it needs for a transfer is too much now
				_, _ = a.curl(a.password, "/files/backups/nightly/disk1/file")
			}
			// With the reason, where the kernel has counted the kill for the group, which it does
			// not always: TestMemoryLimit is about that.
			want := regexp.MustCompile(`msg="a worker ended unexpectedly.* session=` + a.doc.ID[:12] + `.* err="(it needed more than its limit of [0-9]+ MiB of memory: )?signal: killed`)
			eventually(t, func() error {
				if !want.MatchString(c.agent.log.String()) {
					return fmt.Errorf("nothing tells that the worker was killed:\n%s", c.agent.log)
				}
				return nil
			})
			a.pull("nightly", "disk0", "file", content)
		})
	})
	t.Run("renewed", func(t *testing.T) {
		c.t = t
		unharmed(func() { renewed(c, a, b) })
	})
	t.Run("agent killed in the middle", func(t *testing.T) {
		c.t = t
		agentKilled(c, a, b, content)
	})
	c.t = t
}

// smallDisk is a file system of 512 KiB.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("vmfr-test", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

var lostLines = regexp.MustCompile(`vmfr_node_audit_lines_total\{result="lost"\} [1-9]`)

// auditLine is what one line of the audit log says.
type auditLine struct {
	of               *restore
	via, event, path string
}

// auditRecord is a line of the node's audit log.
type auditRecord struct {
	Session, Namespace, Name string
	Record                   struct{ Via, Event, Path string }
}

func (w auditLine) is(l auditRecord) bool {
	return l.Session == w.of.doc.ID[:12] && l.Namespace == w.of.doc.Namespace && l.Name == w.of.name && l.Record.Via == w.via && l.Record.Event == w.event && l.Record.Path == w.path
}

func auditLines(t testing.TB, path string) (out []auditRecord) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadBytes('\n')
		if err != nil { // what follows the last line is being written
			return out
		}
		var l auditRecord
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, l)
	}
}

// rsync fetches a file.
func (r *restore) rsync(path string) ([]byte, error) {
	to := filepath.Join(r.c.t.TempDir(), "file")
	out, err := r.rsyncCommand(path, to).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(to)
}

func (r *restore) rsyncCommand(path, to string, args ...string) *exec.Cmd {
	addr := r.address("SSH")
	_, port, _ := net.SplitHostPort(addr)
	ssh := "ssh -q -F none -i " + r.identity + " -o IdentitiesOnly=yes -o GlobalKnownHostsFile=none -o UserKnownHostsFile=" + r.knownHosts(addr) + " -p " + port
	return exec.Command("rsync", append(append([]string{"-e", ssh}, args...), "oadp@127.0.0.1:"+path, to)...)
}

// group is the control group of a process, as the agent made it.
func group(pid int) (dir, limit, usage string) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.Contains(f[2], "vmfr-worker-") {
			continue
		}
		if f[1] == "memory" {
			return filepath.Join("/sys/fs/cgroup/memory", f[2]), "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		if f[0] == "0" {
			return filepath.Join("/sys/fs/cgroup", f[2]), "memory.max", "memory.current"
		}
	}
	return "", "", ""
}

// squeeze lowers the memory limit of a worker until nothing is left of what it does not need.
func squeeze(t testing.TB, pid int) {
	t.Helper()
	dir, limit, usage := group(pid)
	b, err := os.ReadFile(filepath.Join(dir, usage))
	if err != nil {
		t.Skipf("the group of the worker is not to be seen here: %v", err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(b)))
	for ; err == nil && now > 0; now -= 1 << 20 { // until the kernel finds no more to take away
		err = os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(now)), 0)
	}
	t.Logf("the worker has %d KiB left: %v", now>>10, err)
}

// renewed changes the keys and the certificate of a while files are pulled from a and b.
func renewed(c *cell, a, b *restore) {
	t := c.t
	_ = a.slow("/backups/nightly/disk1/file")
	kept := b.slow("/backups/nightly/disk0/file")
	old, before := a.identity, a.worker()
	private, public := newSSHKey(t)
	a.identity += ".new"
	if err := os.WriteFile(a.identity, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	c.write(a.roots[""], api.DirSSH, map[string]string{api.KeyAuthorizedKeys: string(gossh.MarshalAuthorizedKey(public))})
	changed := time.Now()
	eventually(t, func() error {
		out, err := a.sftp(a.identity, "ls /backups")
		if err != nil {
			err = fmt.Errorf("the new key: %w: %s", err, out)
		}
		return err
	})
	if out, err := a.sftp(old, "ls /backups"); err == nil {
		t.Errorf("the old key still lets in: %s", out)
	}
	eventually(t, func() error { // with all transfers that the old key had begun
		if running(before) {
			return fmt.Errorf("the worker %d with the old key still runs", before)
		}
		return nil
	})
	if took := time.Since(changed); took > goneLimit {
		t.Errorf("it took %s until transfers with the old key ended", took)
	}
	ca, err := files.NewAuthority(time.Now())
	if err == nil {
		a.tls, err = files.NewServer(ca, []string{"127.0.0.1"}, time.Now())
	}
	if err == nil {
		a.ca += ".new"
		err = os.WriteFile(a.ca, ca.Cert, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.write(a.roots[""], api.DirTLS, map[string]string{api.KeyCertificate: string(a.tls.Cert), api.KeyPrivateKey: string(a.tls.Key)})
	eventually(t, func() error { _, err := a.curl(a.password, "/api/v1/backups"); return err })
	if got, err := io.ReadAll(kept); err != nil || len(got) != 1<<20 {
		t.Errorf("the other session's transfer: %d bytes, %v", len(got), err)
	}
}

// agentKilled kills the agent with transfers in all front ends: the kernel ends all that it
// started, and the next agent finds nothing that would be in its way, and leaves nothing.
func agentKilled(c *cell, a, b *restore, content []byte) {
	t := c.t
	c.agent.waitLog("msg=serving session=" + b.doc.ID[:12])
	_ = a.slow("/backups/nightly/disk1/file")
	run := a.rsyncCommand("/backups/nightly/disk1/file", filepath.Join(t.TempDir(), "file"), "--bwlimit=200k")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Process.Kill(); _ = run.Wait() })
	var all []int
	eventually(t, func() error {
		all = descendants(c.agent.cmd.Process.Pid)
		for _, pid := range all {
			if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(cmd, []byte("--sender")) {
				return nil
			}
		}
		return fmt.Errorf("no rsync runs below the agent: %v", all)
	})
	var groups []string
	for _, pid := range c.workers() {
		if dir, _, _ := group(pid); dir != "" {
			groups = append(groups, dir)
		}
	}
	t.Logf("%d processes, %d control groups", len(all), len(groups))
	c.agent.kill(unix.SIGKILL)
	killed := time.Now()
	eventually(t, func() error {
		for _, pid := range all {
			if running(pid) {
				cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				return fmt.Errorf("process %d outlives the agent: %q", pid, cmd)
			}
		}
		return nil
	})
	if took := time.Since(killed); took > goneLimit {
		t.Errorf("it took %s until all processes were gone", took)
	}
	if _, err := os.Stat(filepath.Join(c.dir, api.FileSocket)); err != nil {
		t.Errorf("the test is without a socket that was left behind: %v", err)
	}
	c.start()
	a.ready()
	b.ready()
	a.pull("nightly", "disk0", "file", content)
	eventually(t, func() error { // they are removed while sessions are served again, and a worker that was replaced ends
		for _, dir := range groups {
			if _, err := os.Stat(dir); err == nil {
				return fmt.Errorf("%s was left behind", dir)
			}
		}
		if n := len(c.workers()); n != 2 {
			return fmt.Errorf("%d workers for two sessions", n)
		}
		return nil
	})
}
