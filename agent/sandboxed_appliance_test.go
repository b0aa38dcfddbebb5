package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"vmfr/agent/session"
	"vmfr/agent/spawn"
	"vmfr/agent/worker"
	"vmfr/test/fixture"
)

// TestLendRules: which helpers a worker may ask for that has been taken over.
func TestLendRules(t *testing.T) {
	s := &serving{log: slog.New(slog.DiscardHandler), disks: &openedDisks{backups: []worker.Backup{{Name: "b", Disks: make([]worker.Disk, 2)}}}}
	spawner := spawn.New()
	defer spawner.Close()
	two := &session.Appliance{Backup: "b", Disks: 2}
	ask := func(a *appliances, m *session.Appliance) (answer string, err error) {
		ours, theirs, err := session.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		far, err := session.FileConn(theirs)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		l := &life{sandboxed: &sandboxed{serving: s, appliances: a}, w: &spawn.Worker{Conn: ours}}
		if err := l.lend(m); err != nil {
			return "", err
		}
		got, err := far.Receive(nodePatience)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if got.Helper == nil || got.Helper.Backup != m.Backup {
			t.Fatalf("the answer is %+v", got)
		}
		return got.Helper.Error, nil
	}
	made := func() *appliances { return newAppliances(&fallback{max: 1}, spawner, s.log) }
	for name, m := range map[string]*session.Appliance{"another's backup": {Backup: "c", Disks: 1}, "too many disks": {Backup: "b", Disks: 3}} {
		if answer, err := ask(made(), m); err == nil {
			t.Errorf("%s: it is answered with %q", name, answer)
		}
	}
	if _, err := ask(nil, two); err == nil {
		t.Error("there are none, and it is answered")
	}
	running, often, full := made(), made(), made()
	running.running["b"] = true
	often.limit = rate.NewLimiter(0, 0)
	<-full.uids
	for want, a := range map[string]*appliances{"has not ended yet": running, "too often": often, "no more may": full} {
		if answer, err := ask(a, two); err != nil || !strings.Contains(answer, want) {
			t.Errorf("%q, %v, want %q", answer, err, want)
		}
	}
	if uid := <-made().uids; uid != firstUID+helperUIDs+os.Getpid() {
		t.Errorf("the first helper's user id is %d", uid)
	}
	if last := firstUID + (maxHelpers+1)*helperUIDs; last >= 1<<32-2 {
		t.Errorf("the last helper's user id is %d", last)
	}
}

// TestFindHelper: which program is libguestfs' helper.
func TestFindHelper(t *testing.T) {
	t.Setenv("LIBGUESTFS_PATH", "")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	f := applianceFlags{program: program}
	if h, err := f.find(); err != nil || h.program != program || h.appliance != imageAppliance {
		t.Errorf("%+v, %v", h, err)
	}
	f.program += "-missing"
	if _, err := f.find(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is missing: %v", err)
	}
	f.program = off
	if _, err := f.find(); err == nil {
		t.Error("it is turned off, and found")
	}
}

// TestNoAppliance: where libguestfs is wanted and has no appliance for its jail, serve says what to
// do; a disk says so where it was not.
func TestNoAppliance(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "curl", "mkfs.btrfs")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	fixture.Sparse(t, disk, 128<<20)
	fixture.Run(t, "mkfs.btrfs", "-q", disk)
	program := filepath.Join(dir, helperName)
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LIBGUESTFS_PATH", filepath.Join(dir, "appliance"))
	args := []string{"--rsync", "off", "--disk", "b/d=" + disk}
	const make = "libguestfs-make-fixed-appliance"
	r := call(t, append([]string{"serve", "--guestfs", program, "--state", filepath.Join(dir, "state"), "--listen-https", "127.0.0.1:0", "--listen-ssh", off}, args...)...)
	if r.code != 1 || !strings.Contains(r.stderr, make) || !strings.Contains(r.stderr, "--sandbox off") {
		t.Errorf("wanted: exit code %d\n%s", r.code, r.stderr)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = call(t, "serve", "--guestfs", off, "--disk", "b/d="+disk, "--key-file", key)
	if r.code != exitUsage || !strings.Contains(r.stderr, "--guestfs off") {
		t.Errorf("a key for nothing: exit code %d\n%s", r.code, r.stderr)
	}

	// The same by a program of our own that has one beside it.
	self := filepath.Join(dir, "vmfr-agent")
	fixture.Run(t, "cp", agent, self)
	c := command(t, append([]string{"serve", "--json", "--listen-ssh", off, "--listen-https", "127.0.0.1:0", "--state", filepath.Join(dir, "state")}, args...)...)
	c.Path, c.Args[0] = self, self
	s := serveCommandLine(t, c)
	if text, err := s.curl("/files/backups/b/d/ERROR.txt"); err != nil || !strings.Contains(text, make) || !s.Sandbox.On {
		t.Errorf("%q, %v, sandbox %+v", text, err, s.Sandbox)
	}
	if code := s.stop(); code != 0 || !strings.Contains(s.stderr.String(), "libguestfs is not used") {
		t.Errorf("exit code %d\n%s", code, s.stderr)
	}
}
