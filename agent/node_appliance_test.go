//go:build guestfs

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
	api "vmfr/api/session"
	"vmfr/test/fixture"
)

// passphrase is what must not be found in any log, command line or file.
const passphrase = "correct horse battery staple"

// withGuestfs builds the helper's program and an appliance, and starts the agent again with them.
func (c *cell) withGuestfs(tags string, args ...string) {
	c.t.Helper()
	c.restart(append([]string{"--guestfs", guestfsProgram(c.t, tags)}, args...)...)
}

// guestfsProgram builds the helper's program, once for all tests.
func guestfsProgram(t testing.TB, tags string) string {
	t.Helper()
	program := filepath.Join(filepath.Dir(agent), strings.ReplaceAll(tags, " ", "-"))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	build := exec.Command("go", "build", "-tags", tags, "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// restart ends the agent and starts it again.
func (c *cell) restart(args ...string) {
	c.t.Helper()
	c.agent.kill(unix.SIGTERM)
	c.args = args
	c.start()
}

// appliance makes what libguestfs boots, as libguestfs itself has it made, once for all tests.
func appliance(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(agent), "appliance")
	if _, err := os.Stat(filepath.Join(dir, "README.fixed")); err == nil {
		return dir
	}
	fixture.Need(t, "supermin", "qemu-system-x86_64")
	libraries, err := filepath.Glob("/usr/lib/*/guestfs/supermin.d")
	if err != nil || len(libraries) != 1 {
		t.Fatalf("libguestfs' parts: %q, %v", libraries, err)
	}
	fixture.Run(t, "supermin", "--build", "--copy-kernel", "-f", "ext2", "--host-cpu", "x86_64", libraries[0], "-o", dir)
	if err := os.Chmod(filepath.Join(dir, "kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.fixed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// guestDisks are a btrfs with many folders, and an encrypted ext4 of both versions and without a key.
type guestDisks struct {
	btrfs, luks1, luks2, locked string
	content                     []byte
}

const folders = 64

func makeGuestDisks(t testing.TB) guestDisks {
	fixture.Need(t, "mkfs.btrfs")
	var d guestDisks
	src := t.TempDir()
	d.content = make([]byte, 3<<20)
	for i := range d.content {
		d.content[i] = byte(rand.Uint32())
	}
	for i := range folders {
		if err := os.Mkdir(filepath.Join(src, fmt.Sprintf("d%d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(src, "file"), d.content, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d.btrfs = filepath.Join(dir, "btrfs.raw")
	fixture.Sparse(t, d.btrfs, 256<<20)
	fixture.Run(t, "mkfs.btrfs", "-q", "--rootdir", src, d.btrfs)
	plain := fixture.Ext4(t, src, 24<<20)
	d.luks1, d.luks2 = fixture.LUKS(t, "luks1", plain, passphrase), fixture.LUKS(t, "luks2", plain, passphrase)
	d.locked = fixture.LUKS(t, "luks2", plain, "another passphrase")
	return d
}

// metadata is what METADATA.json says of a backup.
func (r *restore) metadata(backup string) (tree.BackupReport, error) {
	var m struct{ Backups []tree.BackupReport }
	b, err := r.curl(r.password, "/files/METADATA.json")
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	for _, x := range m.Backups {
		if x.Name == backup {
			return x, err
		}
	}
	return tree.BackupReport{}, fmt.Errorf("no backup %s: %w", backup, err)
}

// TestNodeAppliance: what only libguestfs reads is served by a node's agent.
func TestNodeAppliance(t *testing.T) {
	c := newCell(t)
	d := makeGuestDisks(t)
	c.env = append(c.env, "LIBGUESTFS_PATH="+appliance(t))
	modes := []api.Mode{api.Filesystem, api.Filesystem, api.Filesystem, api.Filesystem}
	a := c.newRestore("a", map[string][]api.Mode{"nightly": modes})
	for i, image := range []string{d.btrfs, d.luks1, d.luks2, d.locked} {
		a.attach("nightly", i, image)
	}
	c.write(a.roots[""], api.DirDiskKeys, map[string]string{"data": passphrase + "\n", "binary": "zero\x00byte"})
	b := c.newRestore("b", map[string][]api.Mode{"nightly": {api.Filesystem, api.Filesystem}})
	b.attach("nightly", 0, d.btrfs)
	b.attach("nightly", 1, d.luks2)

	t.Run("off", func(t *testing.T) { c.t = t; turnedOff(c, b) })
	c.t = t
	c.withGuestfs("guestfs probe", "--max-appliances", "1")
	t.Run("hostile helper", func(t *testing.T) { c.t = t; hostileHelper(c, b) })
	c.t = t
	c.withGuestfs("guestfs", "--max-appliances", "1")
	a.hold("nightly")
	a.hold("")
	a.ready()
	b.ready()
	t.Run("files", func(t *testing.T) { c.t = t; filesOfAppliance(c, a, d) })
	t.Run("confined", func(t *testing.T) { confinedHelper(t, c.agent.cmd.Process.Pid, "19000") })
	t.Run("killed", func(t *testing.T) { c.t = t; killedHelper(c, a) })
	t.Run("limit", func(t *testing.T) { c.t = t; oneAppliance(c, a, b) })
	t.Run("deleted", func(t *testing.T) { c.t = t; deletedWhileBooting(c, a) })
	c.t = t
	if log := c.agent.log.String(); strings.Contains(log, passphrase) {
		t.Error("the passphrase is in the agent's log")
	}
}

// turnedOff: without libguestfs the disk says so, and what to do.
func turnedOff(c *cell, r *restore) {
	t := c.t
	c.restart("--guestfs", "off")
	r.hold("nightly")
	r.hold("")
	r.ready()
	for disk, want := range map[string]string{
		"disk0": "libguestfs reads this, and is turned off on this node (--guestfs off).",
		"disk1": "Give it the key with the Secret that spec.diskKeysSecretRef names.",
	} {
		text, err := r.curl(r.password, "/files/backups/nightly/"+disk+"/ERROR.txt")
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %q, %v", disk, text, err)
		}
	}
}

// hostileHelper: a helper that tries to get out, before it serves anything, does not.
func hostileHelper(c *cell, r *restore) {
	t := c.t
	r.ready()
	_ = r.list("disk0")
	m, err := r.metadata("nightly")
	if err != nil || m.Fallback == nil {
		t.Fatalf("%+v, %v\n%s", m, err, c.agent.log)
	}
	if !strings.Contains(m.Fallback.Error, "refused all of ") || strings.Contains(m.Fallback.Error, "got through") {
		t.Errorf("the probe says %q", m.Fallback.Error)
	}
	t.Log(m.Fallback.Error)
}

// filesOfAppliance reads through one appliance.
func filesOfAppliance(c *cell, r *restore, d guestDisks) {
	t := c.t
	m, err := r.metadata("nightly")
	if err != nil || m.Fallback == nil || m.Fallback.State != tree.FallbackNotStarted || m.Disks[0].State != tree.StatePending {
		t.Fatalf("before: %+v, %v", m, err)
	}
	began := time.Now()
	if out, err := r.sftp(r.identity, "ls /backups/nightly/disk0"); err != nil || !strings.Contains(out, "d63") {
		t.Fatalf("%q, %v\n%s", out, err, c.agent.log)
	}
	t.Logf("the first listing took %v", time.Since(began))
	for _, disk := range []string{"disk0", "disk1", "disk2"} {
		r.pull("nightly", disk, "file", d.content)
	}
	text, err := r.curl(r.password, "/files/backups/nightly/disk3/ERROR.txt")
	for _, want := range []string{"no key that was given opens it: check the Secret that spec.diskKeysSecretRef names", `its entry "binary" cannot be used`} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("a disk without its key: %q, %v", text, err)
		}
	}
	// What the controller is told follows.
	eventually(t, func() error {
		report, err := r.report()
		if err != nil || len(report.Backups) != 1 || len(report.Backups[0].Disks) != 4 {
			return fmt.Errorf("%+v, %w", report, err)
		}
		disks := report.Backups[0].Disks
		if v := disks[1].Volumes; len(v) != 1 || v[0].Engine != "libguestfs" || !strings.Contains(disks[3].Message, "no key that was given opens it") {
			return fmt.Errorf("%+v", report.Backups[0])
		}
		return nil
	})
}

// helpers are the processes below an agent that are an appliance's, helper first.
func helpers(agent int) (helper, qemu int) {
	for _, p := range descendants(agent) {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p))
		switch name := strings.TrimSpace(string(comm)); {
		case strings.HasPrefix(name, "qemu"):
			qemu = p
		case name == "agent" && helper == 0: // a fork of it comes later
			helper = p
		}
	}
	return helper, qemu
}

// confinedHelper looks at an agent's running helper and its qemu from outside; uid is how their user ids begin.
func confinedHelper(t *testing.T, agent int, uid string) {
	helper, qemu := helpers(agent)
	if helper == 0 || qemu == 0 {
		t.Fatalf("helper %d, qemu %d", helper, qemu)
	}
	for _, pid := range []int{helper, qemu} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "Uid:\t" + uid} {
			if !strings.Contains(string(b), want) {
				t.Errorf("process %d: not %q:\n%s", pid, want, b)
			}
		}
		dev, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
		if err != nil || strings.Count(string(dev), ":") > 1 {
			t.Errorf("process %d has a network: %s, %v", pid, dev, err)
		}
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || bytes.Contains(args, []byte(passphrase)) {
			t.Errorf("process %d: %q, %v", pid, args, err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "VmHWM") {
				t.Logf("process %d, peak memory: %s", pid, strings.TrimSpace(line))
			}
		}
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", helper))
	if err != nil {
		t.Fatal(err)
	}
	var root []string
	for _, n := range names {
		root = append(root, n.Name())
	}
	t.Logf("its root: %q", root)
	for _, n := range []string{"var/lib", "home", "root", "run", "sys", "mnt", "boot"} {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root/%s", helper, n)); err == nil {
			t.Errorf("it sees /%s", n)
		}
	}
}

// list lists a folder of a disk by HTTPS.
func (r *restore) list(path string) error {
	r.c.t.Helper()
	cmd := exec.Command("curl", "-sSf", "--noproxy", "*", "--max-time", strconv.Itoa(int(bootPatience.Seconds())), "--cacert", r.ca, "-u", "oadp:"+r.password,
		"https://"+r.address("HTTPS")+"/api/v1/entries?path=/backups/nightly/"+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// bootPatience is for an appliance that boots without KVM on a machine with more to do: what guestfs allows
// for the boot and the look at the disks.
const bootPatience = 10 * time.Minute

// booted calls f until it gives no error.
func booted(t testing.TB, f func() error) {
	t.Helper()
	for until := time.Now().Add(bootPatience); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// killedHelper: who lists while the helper dies is told; later the same works again.
func killedHelper(c *cell, r *restore) {
	t := c.t
	helper, qemu := helpers(c.agent.cmd.Process.Pid)
	if err := unix.Kill(helper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	failed := false
	for i := 0; i < folders && !failed; i++ { // one may be answered before the death
		failed = r.list(fmt.Sprintf("disk0/d%d", i)) != nil
	}
	if !failed {
		t.Error("folders that nobody has listed are listed without a helper")
	}
	eventually(t, func() error {
		if running(qemu) {
			return fmt.Errorf("qemu, %d, outlives its helper", qemu)
		}
		return nil
	})
	c.agent.waitLog("libguestfs ended")
	booted(t, func() error { return r.list("disk0/d1") })
	if now, _ := helpers(c.agent.cmd.Process.Pid); now == helper || now == 0 {
		t.Errorf("the helper is %d, and was %d", now, helper)
	}
}

// oneAppliance: while a's appliance is used b waits and says so; then it gets the place.
func oneAppliance(c *cell, a, b *restore) {
	t := c.t
	listed := make(chan error, 1)
	go func() { listed <- b.list("disk0") }()
	next := 2
	booted(t, func() error {
		if err := a.list(fmt.Sprintf("disk0/d%d", next%folders)); err != nil {
			return err
		}
		next++
		m, err := b.metadata("nightly")
		if err != nil || m.Fallback == nil || !strings.Contains(m.Fallback.Stage, "it waits for a free appliance: 1 run on this node") {
			return fmt.Errorf("%+v, %w", m.Fallback, err)
		}
		return nil
	})
	if m := c.get("/metrics"); !strings.Contains(m, `vmfr_node_appliances{state="running"} 1`) {
		t.Errorf("metrics:\n%s", m)
	}
	if err := <-listed; err != nil {
		t.Errorf("%v\n%s", err, c.agent.log)
	}
}

// deletedWhileBooting: nothing is left of a session that ends while its appliance boots.
func deletedWhileBooting(c *cell, r *restore) {
	t := c.t
	_, before := helpers(c.agent.cmd.Process.Pid)
	go func() { _ = r.list("disk0/d60") }()
	booted(t, func() error {
		if _, qemu := helpers(c.agent.cmd.Process.Pid); qemu == 0 || qemu == before {
			return fmt.Errorf("no appliance boots\n%s", c.agent.log)
		}
		return nil
	})
	helper, qemu := helpers(c.agent.cmd.Process.Pid)
	for _, h := range r.holders {
		h.kill(unix.SIGTERM)
	}
	began := time.Now()
	for running(qemu) || running(helper) {
		if time.Since(began) > goneLimit {
			t.Fatalf("helper %d and qemu %d are left", helper, qemu)
		}
		time.Sleep(20 * time.Millisecond)
	}
	eventually(t, func() error {
		if m := c.get("/metrics"); !strings.Contains(m, `vmfr_node_appliances{state="running"} 0`) {
			return fmt.Errorf("%s", m)
		}
		for _, above := range []string{"", "*/", "memory/", "memory/*/", "memory/*/*/"} { // of this session: other tests have groups, too
			if left, _ := filepath.Glob("/sys/fs/cgroup/" + above + "vmfr-worker-" + r.doc.ID[:12] + "-appliance-*"); len(left) > 0 {
				return fmt.Errorf("left: %q", left)
			}
		}
		return nil
	})
}
