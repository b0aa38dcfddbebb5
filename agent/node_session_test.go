package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"

	"vmfr/agent/mountns"
	api "vmfr/api/session"
	"vmfr/test/fixture"
)

// goneLimit is how long anything may be left of a session whose holders are gone.
const goneLimit = 10 * time.Second

// TestNode is the life of two sessions on one node, with everything real but the kubelet.
func TestNode(t *testing.T) {
	c := newCell(t)
	small, content := c.disk(1 << 20)
	second, other := c.disk(300 << 10)
	big, bytesOfBig := c.disk(32 << 20)
	dev := c.loop(second)

	a := c.newRestore("a", map[string][]api.Mode{"nightly": {api.Filesystem, api.Block}, "weekly": {api.Filesystem, api.Filesystem}})
	a.attach("nightly", 0, small)
	a.attach("nightly", 1, dev)
	a.attach("weekly", 0, big) // and its second disk is missing
	b := c.newRestore("b", map[string][]api.Mode{"nightly": {api.Filesystem}})
	b.attach("nightly", 0, second)
	idle := openFiles(t, c.agent)
	// kill, setgid, setuid, setpcap, sys_admin, setfcap
	mask := 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<21 | 1<<31
	if chroot, err := mountns.InChroot(); err != nil {
		t.Fatal(err)
	} else if chroot {
		mask |= 1 << 18 // sys_chroot
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if want := fmt.Sprintf("%s:\t%016x\n", set, mask); !strings.Contains(c.agent.status(), want) {
			t.Errorf("the agent's capabilities are not %q:\n%s", want, c.agent.status())
		}
	}
	for _, r := range []*restore{a, b} {
		r.hold("nightly")
		r.hold("")
	}
	a.ready()
	b.ready()

	t.Run("served", func(t *testing.T) {
		c.t = t
		a.pull("nightly", "disk0", "file", content)
		a.pull("nightly", "disk1", "file", other)
		b.pull("nightly", "disk0", "file", other)
		// A part that comes later does not end what is there.
		out := a.slow("/backups/nightly/disk0/file")
		a.hold("weekly")
		a.ready()
		a.pull("weekly", "disk0", "file", bytesOfBig)
		if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, content) {
			t.Errorf("a transfer over the change: %d of %d bytes, %v", len(got), len(content), err)
		}
		eventually(t, func() error {
			r, err := a.report()
			if err != nil {
				return err
			}
			byName := map[string]api.BackupReport{}
			for _, x := range r.Backups {
				byName[x.Name] = x
			}
			w := byName["weekly"]
			if r.State != api.Serving || r.Node != "node-1" || byName["nightly"].State != api.Readable || w.State != api.Readable || len(w.Disks) != 2 ||
				w.Disks[0].Volumes[0].Type != "ext4" || w.Disks[1].State != api.Failed || !strings.Contains(w.Disks[1].Message, "no such file") {
				b, _ := json.Marshal(r)
				return fmt.Errorf("report %s", b)
			}
			return nil
		})
		if m := c.get("/metrics"); !strings.Contains(m, `vmfr_node_sessions{state="Serving"} 2`) || !strings.Contains(m, `vmfr_node_hellos_total{result="accepted"} 5`) {
			t.Errorf("metrics:\n%s", m)
		}
		eventually(t, func() error {
			if m := c.get("/metrics"); strings.Contains(m, `name="a",namespace="velero",session="`+a.doc.ID[:12]+`"} 0`+"\n"+"# HELP vmfr_node_session_worker") {
				return fmt.Errorf("nothing was read:\n%s", m)
			}
			return nil
		})
	})
	for line := range strings.Lines(c.get("/metrics")) {
		if strings.HasPrefix(line, "vmfr_node_session_worker_memory_bytes{") || strings.HasPrefix(line, "process_resident_memory_bytes") || strings.HasPrefix(line, "vmfr_node_open_seconds_sum") {
			t.Log(strings.TrimSpace(line))
		}
	}
	t.Run("rsync", func(t *testing.T) {
		fixture.Need(t, "rsync")
		c.t = t
		to := t.TempDir() + "/file"
		if out, err := a.rsyncCommand("/backups/weekly/disk0/file", to).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, c.agent.log)
		}
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, bytesOfBig) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		// The sandbox must let go-fuse do what it does for spliced reads.
		if log := fmt.Sprint(c.agent.log); strings.Contains(log, "defect") || strings.Contains(log, "splice") {
			t.Error(log)
		}
	})
	t.Run("apart", func(t *testing.T) {
		c.t = t
		if out, err := b.sftp(a.identity, "ls /"); err == nil {
			t.Errorf("a key of another session: %v\n%s", err, out)
		}
		if _, err := b.curl(a.password, "/api/v1/backups"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("a password of another session: %v", err)
		}
		if out, err := b.sftp(b.identity, "ls /backups"); err != nil || strings.Contains(out, "weekly") {
			t.Errorf("another session's backups: %v\n%s", err, out)
		}
	})
	t.Run("refused", func(t *testing.T) { c.t = t; refused(c, a) })
	t.Run("worker killed", func(t *testing.T) {
		c.t = t
		before := c.workers()
		out := a.slow("/backups/weekly/disk0/file")
		mine := a.worker()
		if err := unix.Kill(mine, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		a.pull("nightly", "disk0", "file", content)
		if took := time.Since(killed); took > goneLimit {
			t.Errorf("it took %s until files could be pulled again", took)
		}
		if got, err := io.ReadAll(out); err == nil && len(got) == len(bytesOfBig) {
			t.Error("the transfer outlived its worker: it was not slow enough for this test")
		}
		after := c.workers()
		for _, pid := range before {
			if pid != mine && !slices.Contains(after, pid) {
				t.Errorf("worker %d of the other session is gone too: %v", pid, after)
			}
		}
		eventually(t, func() error {
			if r, err := a.report(); err != nil || r.Restarts != 1 || r.State != api.Serving {
				return fmt.Errorf("%+v, %w", r, err)
			}
			return nil
		})
	})
	t.Run("agent killed", func(t *testing.T) {
		c.t = t
		workers := c.workers()
		c.agent.kill(unix.SIGKILL)
		eventually(t, func() error {
			for _, pid := range workers {
				if running(pid) {
					return fmt.Errorf("worker %d outlives the agent", pid)
				}
			}
			return nil
		})
		// A client that comes now waits in the backlog.
		got := make(chan error, 1)
		go func() {
			b, err := a.curl(a.password, "/files/backups/nightly/disk0/file")
			if err == nil && !bytes.Equal(b, content) {
				err = fmt.Errorf("%d bytes", len(b))
			}
			got <- err
		}()
		conn, err := net.Dial("tcp", a.address("SSH"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c.start()
		started := time.Now()
		if err := <-got; err != nil {
			t.Errorf("a client that waited: %v", err)
		}
		if took := time.Since(started); took > goneLimit {
			t.Errorf("it took %s until files could be pulled again", took)
		}
		_ = conn.SetReadDeadline(time.Now().Add(nodePatience))
		hello := make([]byte, 7)
		if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "SSH-2.0" {
			t.Errorf("a connection from before: %q, %v", hello, err)
		}
		a.ready()
		b.ready()
		a.pull("weekly", "disk0", "file", bytesOfBig)
	})
	t.Run("credentials", func(t *testing.T) {
		c.t = t
		old := a.password
		a.password = "another-password-of-a"
		c.write(a.roots[""], api.DirBrowser, map[string]string{api.KeyPassword: a.password})
		eventually(t, func() error { _, err := a.curl(a.password, "/api/v1/backups"); return err })
		if _, err := a.curl(old, "/api/v1/backups"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("the old password: %v", err)
		}
	})
	t.Run("a backup leaves", func(t *testing.T) {
		c.t = t
		h := a.holders["weekly"]
		delete(a.holders, "weekly")
		began := time.Now()
		h.kill(unix.SIGTERM)
		if h.err != nil || time.Since(began) > goneLimit || !strings.Contains(h.log.String(), "the agent closed this part") {
			t.Errorf("after %s: %v\n%s", time.Since(began), h.err, h.log)
		}
		a.ready()
		a.pull("nightly", "disk1", "file", other)
		if out, err := a.sftp(a.identity, "ls /backups"); err != nil || strings.Contains(out, "weekly") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("nothing left", func(t *testing.T) {
		c.t = t
		started := descendants(c.agent.cmd.Process.Pid)
		idleNow := func() []string {
			var left []string
			for _, pid := range c.workers() {
				left = append(left, fmt.Sprintf("worker %d", pid))
			}
			// Besides, its connection to the API server and the one that asks for its metrics.
			if n := openFiles(t, c.agent); n > idle+2 {
				left = append(left, fmt.Sprintf("%d descriptors instead of %d", n, idle))
			}
			// A jail's mounts are in its processes' namespace and end with them.
			for _, pid := range started {
				if running(pid) {
					left = append(left, fmt.Sprintf("process %d", pid))
				}
			}
			children, _ := exec.Command("ps", "--no-headers", "-o", "pid,args", "--ppid", fmt.Sprint(c.agent.cmd.Process.Pid)).Output()
			if s := strings.TrimSpace(string(children)); s != "" {
				left = append(left, s)
			}
			// Of these sessions: other tests have groups, too.
			for _, above := range []string{"", "memory/", "memory/*/", "memory/*/*/"} {
				for _, r := range []*restore{a, b} {
					groups, _ := filepath.Glob("/sys/fs/cgroup/" + above + "vmfr-worker-" + r.doc.ID[:12] + "-*")
					left = append(left, groups...)
				}
			}
			return left
		}
		if len(idleNow()) == 0 {
			t.Fatal("the check cannot fail: two sessions are served")
		}
		// One session ends in order, the other one's pods are killed.
		for _, name := range []string{"", "nightly"} {
			b.holders[name].kill(unix.SIGTERM)
			_ = a.holders[name].cmd.Process.Kill()
		}
		killed := time.Now()
		var left []string
		for left = idleNow(); len(left) > 0 && time.Since(killed) < goneLimit; left = idleNow() {
			time.Sleep(50 * time.Millisecond)
		}
		if len(left) > 0 {
			t.Errorf("left after %s: %q\n%s", goneLimit, left, c.agent.log)
		}
		if m := c.get("/metrics"); !strings.Contains(m, "vmfr_node_held_descriptors 0\n") || !strings.Contains(m, `vmfr_node_sessions{state="Serving"} 0`) {
			t.Errorf("metrics:\n%s", m)
		}
	})
	t.Run("hostile worker", func(t *testing.T) { c.t = t; hostile(c, b) })
	c.t = t
}

// refused are holders that must not get in.
func refused(c *cell, a *restore) {
	t := c.t
	stranger := c.newRestore("stranger", map[string][]api.Mode{"nightly": {api.Filesystem}})
	image, _ := c.disk(4 << 10)
	stranger.attach("nightly", 0, image)
	ns := stranger.namespace("nightly")
	root := stranger.roots["nightly"]
	token := func(s string) { c.write(root, api.DirToken, map[string]string{api.FileToken: s}) }
	good, err := os.ReadFile(filepath.Join(root, api.DirToken, api.FileToken))
	if err != nil {
		t.Fatal(err)
	}
	aDoc, _ := json.Marshal(a.doc)
	doc, _ := json.Marshal(stranger.doc)
	for _, x := range []struct {
		name, want string
		prepare    func()
	}{
		{"a session too many", "which is its limit", func() {}},
		{"a forged token", "not valid", func() { token(string(good[:len(good)-8]) + "AAAAAAAA") }},
		{"no token at all", "not valid", func() { token("x") }},
		{"another audience", "not valid", func() { token(c.token(ns, "node-1", "https://kubernetes.default.svc")) }},
		{"a pod of another node", "runs on the node", func() { token(c.token(ns, "node-2", api.TokenAudience)) }},
		{"a token of no pod", "bound to no pod", func() {
			token(c.accountToken(ns, "holder", authenticationv1.TokenRequestSpec{Audiences: []string{api.TokenAudience}}))
		}},
		{"a part that is held", "is held by a pod", func() {
			token(string(good))
			c.write(root, api.DirSession, map[string]string{api.KeySession: string(aDoc)})
			c.write(root, api.DirIdentity, map[string]string{api.KeyJoin: string(a.join)})
			stranger.attach("nightly", 1, image)
		}},
	} {
		x.prepare()
		h := stranger.hold("nightly")
		h.waitLog(x.want)
		h.kill(unix.SIGTERM)
	}
	c.write(root, api.DirSession, map[string]string{api.KeySession: string(doc)})
	c.write(root, api.DirIdentity, map[string]string{api.KeyJoin: string(stranger.join)})
	// A holder of our own checks the key itself, so this one says it by hand: a's public id with
	// the stranger's valid token and key.
	for name, m := range map[string]string{
		"foreign join key": helloFrame(string(good), stranger.join, string(aDoc)),
		"garbage":          "GET / HTTP/1.1\r\n\r\n",
		"oversized":        "vmfr\x00\x01\x00\x00\xff\xff\xff\xff",
		"truncated":        helloFrame(string(good), stranger.join, string(doc))[:200],
	} {
		conn, err := net.Dial("unix", filepath.Join(c.dir, api.FileSocket))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(m))
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(nodePatience))
		answer, err := io.ReadAll(conn)
		_ = conn.Close()
		if !strings.Contains(string(answer), `"refused"`) { // an error may follow: not all that came was read
			t.Errorf("%s: %q, %v", name, answer, err)
		}
		if name == "foreign join key" && !strings.Contains(string(answer), "not this session's") {
			t.Errorf("%s: %q", name, answer)
		}
	}
}

// helloFrame is a front's Hello without descriptors, in the wire's own words.
func helloFrame(token string, key []byte, doc string) string {
	body, _ := json.Marshal(map[string]any{"hello": map[string]any{
		"token": token, "joinKey": key, "session": doc, "part": map[string]any{"backup": "nightly", "disks": []any{map[string]string{"error": "x"}, map[string]string{"error": "x"}}},
		"listeners": map[string]any{}, "credentials": map[string]any{},
	}})
	return "vmfr\x00\x01\x00\x00" + string([]byte{byte(len(body) >> 24), byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}) + string(body)
}

// hostile runs a session whose worker tries to get out.
func hostile(c *cell, r *restore) {
	t := c.t
	c.agent.kill(unix.SIGTERM)
	probed := filepath.Join(t.TempDir(), "vmfr-agent")
	build := exec.Command("go", "build", "-tags", "probe", "-o", probed, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.program = probed
	c.start()
	c.program = agent
	r.hold("")
	r.hold("nightly")
	c.agent.waitLog("probe ended\\\" sealed=true")
	log := c.agent.log.String()
	if n := strings.Count(log, "probe refused"); strings.Contains(log, "PROBE got through") || n < 2*13+13 {
		t.Errorf("%d attempts were refused:\n%s", n, log)
	}
	// Its own descriptors: standard ones, the supervisor's socket, Go's poller; no disk yet.
	if !strings.Contains(log, "uid=19000") || !strings.Contains(log, "pid=1 ") {
		t.Errorf("a worker with other ids:\n%s", log)
	}
	r.ready() // and it still serves
}

// slow begins to fetch a file, slowly enough that it is not over soon.
func (r *restore) slow(path string) io.Reader {
	r.c.t.Helper()
	cmd := exec.Command("curl", "-sS", "--noproxy", "*", "--limit-rate", "200k", "--cacert", r.ca, "-u", "oadp:"+r.password, "https://"+r.address("HTTPS")+"/files"+path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.c.t.Fatal(err)
	}
	r.c.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err != nil {
		r.c.t.Fatal(err)
	}
	return io.MultiReader(bytes.NewReader(first), out)
}

// worker is the process that serves the session, by the log. A client may be served before the agent
// has read that the worker serves: then the log still tells of the one before, which has ended.
func (r *restore) worker() (pid int) {
	r.c.t.Helper()
	eventually(r.c.t, func() error {
		for line := range strings.Lines(r.c.agent.log.String()) {
			if strings.Contains(line, "msg=serving session="+r.doc.ID[:12]) {
				_, _ = fmt.Sscanf(line[strings.Index(line, "worker="):], "worker=%d", &pid)
			}
		}
		if pid == 0 || !running(pid) {
			return fmt.Errorf("no worker of the session %s serves, the last was %d:\n%s", r.name, pid, r.c.agent.log)
		}
		return nil
	})
	return pid
}

func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// status is the kernel's account of a process.
func (p *process) status() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	return string(b)
}

// openFiles counts the descriptors of a process.
func openFiles(t testing.TB, p *process) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// get fetches a page of the agent's own.
func (c *cell) get(path string) string {
	c.t.Helper()
	r, err := http.Get("http://" + c.metrics + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: %s, %v\n%s", path, r.Status, err, b)
	}
	return string(b)
}
