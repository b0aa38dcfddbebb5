package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	api "vmfr/api/session"
	"vmfr/test/fixture"
	"vmfr/test/stuck"
)

// TestNodeStorage has storage that does not answer for several times as long as a worker may be silent:
// no worker is killed for that, neither one that serves nor one that opens its disks; people are told;
// other disks are read; and when the storage answers, whoever waited gets what he waited for.
func TestNodeStorage(t *testing.T) {
	fixture.Need(t, "rsync")
	c := newCell(t)
	const patience = 4 * time.Second
	c.agent.kill(unix.SIGTERM)
	c.args = append(c.args, "--worker-patience", patience.String())
	c.start()
	// More files than the kernel reads ahead of at a time (max_background, 12).
	const behind = 16
	src, content := t.TempDir(), bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	for i := range behind {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file%d", i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := fixture.Ext4(t, src, 24<<20)
	small, other := c.disk(1 << 20)
	a := c.newRestore("a", map[string][]api.Mode{"nightly": {api.Filesystem, api.Filesystem}})
	dir := filepath.Join(a.roots["nightly"], api.Volume(0))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	storage := stuck.NewStorage(t, image, dir, "disk.img")
	a.attach("nightly", 1, small)
	a.hold("nightly")
	a.hold("")
	a.ready()
	a.pull("nightly", "disk0", "file0", content)
	worker := a.worker()

	storage.Stall()
	const path = "/backups/nightly/disk0/file0"
	pulls := map[string]func() ([]byte, error){
		"sftp": func() ([]byte, error) {
			to := filepath.Join(t.TempDir(), "pulled")
			if out, err := a.sftp(a.identity, "get "+path+" "+to); err != nil {
				return nil, fmt.Errorf("%w: %s", err, out)
			}
			return os.ReadFile(to)
		},
		"curl": func() ([]byte, error) {
			return exec.Command("curl", "-sSf", "--noproxy", "*", "--cacert", a.ca, "-u", "oadp:"+a.password, "https://"+a.address("HTTPS")+"/files"+path).Output()
		},
	}
	for i := range behind {
		path, to := fmt.Sprintf("/backups/nightly/disk0/file%d", i), filepath.Join(t.TempDir(), "pulled")
		rsync := a.rsyncCommand(path, to)
		pulls["rsync of "+path] = func() ([]byte, error) {
			if out, err := rsync.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%w: %s", err, out)
			}
			return os.ReadFile(to)
		}
	}
	type pulled struct {
		name string
		got  []byte
		err  error
	}
	done := make(chan pulled, len(pulls))
	for name, pull := range pulls {
		go func() {
			got, err := pull()
			done <- pulled{name, got, err}
		}()
	}
	eventually(t, func() error {
		if n := storage.Waiting(); n < 12 {
			return fmt.Errorf("%d reads wait", n)
		}
		return nil
	})
	a.stalled(3 * patience)
	a.pull("nightly", "disk1", "file", other)
	eventually(t, func() error {
		r, err := a.report()
		if err != nil || r.State != api.Serving || !strings.Contains(r.Message, "the storage of disk nightly/disk0 has not answered since ") || strings.Contains(r.Message, "disk1") {
			return fmt.Errorf("%+v, %w", r, err)
		}
		return nil
	})
	storage.Resume()
	for range pulls {
		if p := <-done; p.err != nil || !bytes.Equal(p.got, content) {
			t.Errorf("%s: %d of %d bytes, %v", p.name, len(p.got), len(content), p.err)
		}
	}
	if now := a.worker(); now != worker || !running(worker) {
		t.Fatalf("the worker is %d, it was %d\n%s", now, worker, c.agent.log)
	}
	eventually(t, func() error {
		r, err := a.report()
		if err != nil || strings.Contains(r.Message, "storage") {
			return fmt.Errorf("%+v, %w", r, err)
		}
		return nil
	})

	// One that is started meanwhile waits, too.
	storage.Stall()
	if err := unix.Kill(worker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.stalled(3 * patience)
	eventually(t, func() error {
		r, err := a.report()
		if err != nil || r.State != api.Waiting || !strings.Contains(r.Message, "nightly/disk0 has not answered since ") || r.Restarts != 1 {
			return fmt.Errorf("%+v, %w", r, err)
		}
		return nil
	})
	storage.Resume()
	a.pull("nightly", "disk0", "file0", content)
	if m := c.get("/metrics"); !strings.Contains(m, "vmfr_node_workers_hung_total 0\n") || !strings.Contains(m, "vmfr_node_worker_restarts_total 1\n") {
		t.Errorf("a worker was killed:\n%s", m)
	}
	if a.worker() == worker {
		t.Error("the worker was not killed: the second half shows nothing")
	}

	// A worker itself that does not answer is killed.
	hung := a.worker()
	fixture.Stop(t, hung)
	c.agent.waitLog("it did not answer for " + patience.String() + " and was killed")
	a.pull("nightly", "disk0", "file0", content)
}

var stallMetrics = regexp.MustCompile(`(?m)^vmfr_node_session_(storage_wait_seconds|stalled_disks)\{.*\} ([0-9]+)$`)

// stalled waits until the metrics tell that storage of one disk has not answered for so long.
func (r *restore) stalled(least time.Duration) {
	r.c.t.Helper()
	eventually(r.c.t, func() error {
		told := map[string]int{}
		m := r.c.get("/metrics")
		for _, line := range stallMetrics.FindAllStringSubmatch(m, -1) {
			told[line[1]], _ = strconv.Atoi(line[2])
		}
		if told["storage_wait_seconds"] < int(least.Seconds()) || told["stalled_disks"] != 1 {
			return fmt.Errorf("the metrics tell %v\n%s", told, r.c.agent.log)
		}
		return nil
	})
}
