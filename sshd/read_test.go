package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// isData tells whether p is the reply to read id with that content.
func isData(p []byte, id uint32, content []byte) bool {
	return p[0] == fxpData && replyID(p) == id && bytes.Equal(p[9:], content)
}

// TestReadsOutOfOrder: a slow read holds up what follows of its file, which is read meanwhile, and nothing else.
func TestReadsOutOfOrder(t *testing.T) {
	tr, g := gatedTree(t)
	r := serve(t, tr, nil)
	x, _ := r.raw()
	h, other := x.open(gatedPath), x.open(gatedPath)
	x.send(readRequest(11, h, slowAt, 1000))
	<-g.entered
	x.send(readRequest(15, h, 7000, 1000))
	eventually(t, "the read of what follows", func() bool { return r.counters.Snapshot().Bytes == 1000 })
	x.send(readRequest(12, other, 5000, 1000))
	if p := x.next(); !isData(p, 12, g.content[5000:6000]) {
		t.Fatalf("while a read waits: %.20q", p)
	}
	// Other requests go on, too; a close does not take the file from under the read.
	x.send(closeRequest(13, h))
	if p := x.next(); p[0] != fxpStatus || replyID(p) != 13 || p[8] != 0 {
		t.Fatalf("close: %q", p)
	}
	x.send(readRequest(14, h, 5000, 1000))
	if p := x.next(); p[0] != fxpStatus || replyID(p) != 14 || p[8] != fxFailure {
		t.Fatalf("read after close: %q", p)
	}
	if n := r.counters.Snapshot().OpenFiles; n != 1 {
		t.Errorf("%d open files", n)
	}
	close(g.gate)
	if p := x.next(); !isData(p, 11, g.content[slowAt:slowAt+1000]) {
		t.Fatalf("the slow read: %.20q", p)
	}
	if p := x.next(); !isData(p, 15, g.content[7000:8000]) {
		t.Fatalf("what follows it: %.20q", p)
	}
}

// TestInterruptedGet: what OpenSSH's client has of a file when its connection breaks is the file's beginning, so that
// reget makes it whole, whatever was read out of order.
func TestInterruptedGet(t *testing.T) {
	fixture.Need(t, "sftp")
	tr, g := gatedTree(t)
	r := serve(t, tr, nil)
	to := filepath.Join(t.TempDir(), "d.raw")
	get := exec.Command("sftp", append(r.options("-q", "-b", "-", "-R", "64", "-B", "32768"), "oadp@"+r.host)...)
	get.Stdin = strings.NewReader("get " + gatedPath + " " + to + "\n")
	if err := get.Start(); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	eventually(t, "reads of what follows", func() bool { return r.counters.Snapshot().Bytes >= slowAt+16*32<<10 })
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) { // for answers to arrive
		if st, err := os.Stat(to); err == nil && st.Size() > slowAt {
			break
		}
	}
	ssh, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", get.Process.Pid))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(ssh)))
	if err != nil || pid == 0 {
		t.Fatalf("sftp's connection: %q, %v", ssh, err)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	if err := get.Wait(); err == nil {
		t.Fatal("the client did not notice")
	}
	close(g.gate)
	g.armed.Store(false) // no place is slow or broken any more
	got, err := os.ReadFile(to)
	if err != nil || len(got) == 0 || !bytes.HasPrefix(g.content, got) {
		t.Errorf("%d bytes that are not the file's first ones, %v", len(got), err)
	}
	r.mustSFTP("reget " + gatedPath + " " + to)
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, g.content) {
		t.Errorf("%d bytes after reget, %v; they are not the file's", len(got), err)
	}
}

// TestReadsAreBounded asks for much that is slow, and then goes.
func TestReadsAreBounded(t *testing.T) {
	tr, g := gatedTree(t)
	r := serve(t, tr, nil)
	x, c := r.raw()
	h := x.open(gatedPath)
	for i := range uint32(3 * maxPending) {
		x.send(readRequest(i, h, slowAt, 1000))
	}
	for range maxPending {
		<-g.entered
	}
	c.Close()
	select {
	case <-g.entered:
		t.Error("one read more than the session may have")
	case <-time.After(100 * time.Millisecond):
	}
	if n := r.counters.Snapshot().Connections; n != 1 {
		t.Errorf("%d connections; it must not end before its reads", n)
	}
	close(g.gate)
	eventually(t, "the connection's end", func() bool { return r.counters.Snapshot().Connections == 0 })
	if n := r.counters.Snapshot().OpenFiles; n != 0 {
		t.Errorf("%d open files", n)
	}
}

func TestShutdownWithBlockedRead(t *testing.T) {
	tr, g := gatedTree(t)
	r := serve(t, tr, func(c *Config) { c.ShutdownGrace = 100 * time.Millisecond })
	x, _ := r.raw()
	x.send(readRequest(11, x.open(gatedPath), slowAt, 1000))
	<-g.entered
	r.stop()
	if err := r.wait(); !errors.Is(err, ErrBusy) {
		t.Errorf("Serve: %v", err)
	}
	close(g.gate)
	eventually(t, "the connection's end", func() bool { return r.counters.Snapshot().Connections == 0 })
	for p := range x.replies {
		t.Errorf("a reply after the end: %.20q", p)
	}
}

// TestShutdownAfterAPause: connections have their time to end also where the process did not run when the grace ended.
func TestShutdownAfterAPause(t *testing.T) {
	tr, _ := gatedTree(t)
	c := complete(t)
	c.ShutdownGrace = -2 * stuckWait
	s := newServer(tr, c)
	client, server := net.Pipe()
	defer client.Close()
	s.admit(server)
	if err := s.drain(); err != nil {
		t.Error(err)
	}
}

// TestReadsLikeRequestServer compares replies with those of pkg/sftp's own code for reading.
func TestReadsLikeRequestServer(t *testing.T) {
	tr, g := gatedTree(t)
	close(g.gate)
	r := serve(t, tr, nil)
	x, _ := r.raw()
	h := x.open(gatedPath)
	x.send(request(11, 1, "/disks")) // OPENDIR
	folder := string(x.next()[9:])
	peer := r.peer(tr)
	if got := peer.open(gatedPath); got != h {
		t.Fatalf("handle %q, RequestServer: %q", h, got)
	}
	for name, c := range map[string]struct {
		handle string
		off    uint64
		n      uint32
		want   byte
		length int // of the content
	}{
		"ordinary":        {h, 4096, 32 << 10, fxpData, 32 << 10},
		"one byte":        {h, 1, 1, fxpData, 1},
		"zero length":     {h, 77, 0, fxpData, 0},
		"longest":         {h, 3, maxRead, fxpData, maxRead},
		"too long":        {h, 3, maxRead + 1, fxpData, maxRead},
		"length 2^32-1":   {h, 3, math.MaxUint32, fxpData, maxRead},
		"short at end":    {h, gatedSize - 5, 100, fxpData, 5},
		"at end":          {h, gatedSize, 100, fxpStatus, 0},
		"zero at end":     {h, gatedSize, 0, fxpData, 0},
		"behind end":      {h, 1 << 40, 100, fxpStatus, 0},
		"offset 2^63":     {h, 1 << 63, 100, fxpStatus, 0},
		"offset 2^64-1":   {h, math.MaxUint64, math.MaxUint32, fxpStatus, 0},
		"I/O error":       {h, brokenAt, 100, fxpStatus, 0},
		"panic":           {h, panicAt, 100, fxpStatus, 0},
		"unknown handle":  {"99", 0, 100, fxpStatus, 0},
		"empty handle":    {"", 0, 100, fxpStatus, 0},
		"long handle":     {strings.Repeat("1", 300), 0, 100, fxpStatus, 0},
		"folder's handle": {folder, 0, 100, fxpStatus, 0},
	} {
		before := r.counters.Snapshot()
		x.send(readRequest(7, c.handle, c.off, c.n))
		ours := x.next()
		after := r.counters.Snapshot()
		peer.send(readRequest(7, c.handle, c.off, c.n))
		if theirs := peer.next(); c.handle == h && !bytes.Equal(ours, theirs) || ours[0] != theirs[0] {
			t.Errorf("%s: %.100q, RequestServer: %.100q", name, ours, theirs)
		}
		if ours[0] != c.want || c.want == fxpData && len(ours) != 9+c.length {
			t.Errorf("%s: type %d, %d bytes: %.200q", name, ours[0], len(ours), ours)
		}
		if n := after.Bytes - before.Bytes; n != uint64(c.length) {
			t.Errorf("%s: counted %d bytes", name, n)
		}
	}
}

func TestRawWrite(t *testing.T) {
	tr, _ := gatedTree(t)
	r := serve(t, tr, nil)
	x, _ := r.raw()
	for _, handle := range []string{x.open(gatedPath), "99", ""} {
		x.send(request(fxpWrite, 5, handle, uint64(0), strings.Repeat("x", 1<<16)))
		if p := x.next(); p[0] != fxpStatus || replyID(p) != 5 || p[8] != fxPermissionDenied || !strings.Contains(string(p), "read-only") {
			t.Errorf("%q: %q", handle, p)
		}
	}
	if n := r.counters.Snapshot().Ops["refused"]; n != 3 {
		t.Errorf("refused counts %d", n)
	}
}

// TestHandlesInOrder sends requests without waiting for handles, all with the same id.
func TestHandlesInOrder(t *testing.T) {
	src := t.TempDir()
	const files = 100
	for i := range files {
		write(t, src, fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	if err := os.Mkdir(src+"/folder", 0o755); err != nil {
		t.Fatal(err)
	}
	x, _ := serve(t, hostTree(t, newHostFS(src)), nil).raw()
	go func() {
		for i := range files {
			_, _ = x.in.Write(openRequest(7, fmt.Sprint("/backups/b/d/f", i)))
			switch i % 5 {
			case 1:
				_, _ = x.in.Write(request(11, 7, "/backups/b/d/folder"))
			case 2:
				_, _ = x.in.Write(openRequest(7, "/backups/b/d/missing"))
			case 3:
				_, _ = x.in.Write(request(17, 7, "/backups/b/d/folder")) // STAT
			case 4: // of a file whose handle nobody has been told yet
				_, _ = x.in.Write(openRequest(7, "/backups/b/d/f0"))
				// Every OPEN takes a number, whether it succeeds or not.
				_, _ = x.in.Write(closeRequest(7, fmt.Sprint(i+1+(i+4)/5+(i+3)/5+(i+1)/5)))
			}
		}
	}()
	var opened, gone []string
	for i := range files {
		opened = append(opened, string(x.next()[9:]))
		switch i % 5 {
		case 1, 2, 3:
			x.next()
		case 4:
			h := string(x.next()[9:])
			if p := x.next(); p[8] == 0 {
				gone = append(gone, h)
			}
		}
	}
	if len(gone) != files/5 {
		t.Errorf("%d of %d guesses were right", len(gone), files/5)
	}
	for _, h := range gone {
		x.send(readRequest(8, h, 0, 100))
		if p := x.next(); p[0] != fxpStatus {
			t.Errorf("handle %q is closed: %q", h, p)
		}
	}
	for i, h := range opened {
		x.send(readRequest(8, h, 0, 100))
		if p := x.next(); !isData(p, 8, []byte(fmt.Sprint("content ", i))) {
			t.Errorf("handle %q of file %d: %q", h, i, p)
		}
	}
}

func TestReadsOfOneFile(t *testing.T) {
	tr, g := gatedTree(t)
	close(g.gate)
	r := serve(t, tr, nil)
	c := r.client()
	f, err := c.Open(gatedPath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wg sync.WaitGroup
	for i := range uint64(16) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(i, 1))
			p := make([]byte, 70_000)
			for range 30 {
				off := rnd.Int64N(brokenAt - int64(len(p)))
				b := p[:rnd.IntN(len(p))]
				if n, err := f.ReadAt(b, off); n != len(b) || err != nil || !bytes.Equal(b, g.content[off:off+int64(n)]) {
					t.Errorf("ReadAt(%d, %d): %d, %v", len(b), off, n, err)
				}
				other, err := c.Open(gatedPath)
				if err != nil {
					t.Error(err)
					return
				}
				_ = other.Close()
			}
		})
	}
	wg.Wait()
	if n := r.counters.Snapshot().OpenFiles; n != 1 {
		t.Errorf("%d open files", n)
	}
}

// TestReadPanics covers what the tree's own net does not.
func TestReadPanics(t *testing.T) {
	s := newServer(newTree(t, nil, extent.Bytes(make([]byte, 4096))), complete(t))
	f := &file{v: &view{ctx: context.Background(), s: s}} // without a file of the tree
	p := f.reply(make(readBuffer, dataHeader+maxRead), 9, 0, 100, nil)
	if p[4] != fxpStatus || p[12] != fxFailure || !strings.Contains(string(p), tree.KindInternal.Advice()) || s.panics.Load() != 1 {
		t.Errorf("%q, %d panics", p, s.panics.Load())
	}
}

// TestNoReplyAfterEnd has a read end after its session has failed.
func TestNoReplyAfterEnd(t *testing.T) {
	tr, g := gatedTree(t)
	s := newServer(tr, complete(t))
	f := openGated(t, tr)
	var sent bytes.Buffer
	v := &view{ctx: context.Background(), s: s, c: &conn{}}
	w := newWire(script{nil, &sent}, v)
	w.startRead(&file{v: v, f: f}, 1, slowAt, 100)
	<-g.entered
	_ = w.Close()
	close(g.gate)
	w.reads.Wait()
	if sent.Len() != 0 {
		t.Errorf("sent %q", sent.Bytes())
	}
}
