package sshd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

func TestConnectionLimits(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"in total":    func(c *Config) { c.MaxConns = 3 },
		"per address": func(c *Config) { c.MaxConnsPerAddr = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, hostTree(t, newHostFS(sample(t))), change)
			var open []*gossh.Client
			for range 3 {
				c, err := r.dial()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				open = append(open, c)
			}
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if c, err := r.dial(); err == nil {
						c.Close()
						t.Error("one connection too many")
					}
				})
			}
			wg.Wait()
			nc, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if line, _ := bufio.NewReader(nc).ReadString('\n'); !strings.HasPrefix(line, "Too many connections") {
				t.Errorf("%q", line)
			}
			// A place that becomes free is given again.
			open[0].Close()
			eventually(t, "a free place", func() bool {
				c, err := r.dial()
				if err == nil {
					c.Close()
				}
				return err == nil
			})
		})
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not reached", what)
		}
	}
}

func TestSessionLimit(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range maxSessions {
		if _, err := c.NewSession(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "more than 10 sessions") {
		t.Errorf("one more: %v", err)
	}
}

func TestLoginGrace(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), func(c *Config) { c.LoginGrace = 300 * time.Millisecond })
	for name, send := range map[string]string{"silent": "", "half": "SSH-2.0-x\r\n", "noise": strings.Repeat("\x00\xff", 2000) + "\r\n"} {
		nc, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(nc, send)
		if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: still connected", name)
		}
		nc.Close()
	}
	// Who has logged in stays. A busy machine may not be quick enough for the grace at the first try.
	var conn *gossh.Client
	eventually(t, "a login within the grace", func() (ok bool) {
		var err error
		conn, err = r.dial()
		return err == nil
	})
	defer conn.Close()
	c, err := sftp.NewClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	if _, err := c.Stat("/"); err != nil {
		t.Errorf("closed after login: %v", err)
	}
}

// TestLoginTries: the sixth key that does not fit ends the connection, whatever comes after it.
func TestLoginTries(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	for wrong, want := range map[int]bool{0: true, maxAuthTries - 1: true, maxAuthTries: false, 3 * maxAuthTries: false} {
		var keys []gossh.Signer
		for range wrong {
			keys = append(keys, newSigner(t, ""))
		}
		c, err := gossh.Dial("tcp", r.addr, &gossh.ClientConfig{
			User: "oadp", Auth: []gossh.AuthMethod{gossh.PublicKeys(append(keys, r.signer)...)}, HostKeyCallback: gossh.FixedHostKey(r.hostKey.PublicKey()),
		})
		if (err == nil) != want {
			t.Errorf("after %d wrong keys: %v", wrong, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestKeepaliveEndsDeadClients(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), func(c *Config) { c.Keepalive = 400 * time.Millisecond }) // a busy client has 1.2 s to answer
	alive := r.client()
	l, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	// A network that loses everything once told to.
	dead := &lossy{Conn: l}
	sc, chans, reqs, err := gossh.NewClientConn(dead, r.addr, &gossh.ClientConfig{
		User: "oadp", Auth: []gossh.AuthMethod{gossh.PublicKeys(r.signer)}, HostKeyCallback: gossh.FixedHostKey(r.hostKey.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := gossh.NewClient(sc, chans, reqs)
	defer c.Close()
	if _, err := c.NewSession(); err != nil {
		t.Fatal(err)
	}
	dead.lose()
	eventually(t, "the dead client's end", func() bool { return r.counters.Snapshot().Connections == 1 })
	if _, err := alive.Stat("/"); err != nil {
		t.Errorf("a living client was closed: %v", err)
	}
}

type lossy struct {
	net.Conn
	mu   sync.Mutex
	lost bool
}

func (l *lossy) lose() {
	l.mu.Lock()
	l.lost = true
	l.mu.Unlock()
}

func (l *lossy) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

// TestShutdown stops the server while a file is being read.
func TestShutdown(t *testing.T) {
	src := t.TempDir()
	want := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	write(t, src, "big", want)
	const soon = 15 * time.Second // long before the grace ends, also on a busy machine
	grace := func(c *Config) { c.ShutdownGrace = time.Minute }
	t.Run("a transfer finishes", func(t *testing.T) {
		r := serve(t, hostTree(t, newHostFS(src)), grace)
		idle := r.client()
		f, err := r.client().Open("/backups/b/d/big")
		if err != nil {
			t.Fatal(err)
		}
		half := make([]byte, len(want)/2)
		if _, err := io.ReadFull(f, half); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r.stop()
		if err := idle.Wait(); time.Since(start) > soon {
			t.Errorf("an idle connection stays for %v: %v", time.Since(start), err)
		}
		if _, err := r.dial(); err == nil {
			t.Error("a new connection is accepted")
		}
		rest, err := io.ReadAll(f)
		if err != nil || string(half)+string(rest) != want {
			t.Errorf("the transfer was cut: %d bytes, %v", len(rest), err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		start = time.Now()
		if err := r.wait(); err != nil || time.Since(start) > soon {
			t.Errorf("Serve: %v after %v", err, time.Since(start))
		}
	})
	t.Run("the grace ends", func(t *testing.T) {
		r := serve(t, hostTree(t, newHostFS(src)), func(c *Config) { c.ShutdownGrace = 400 * time.Millisecond })
		f, err := r.client().Open("/backups/b/d/big")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r.stop()
		if err := r.wait(); err != nil || time.Since(start) < 300*time.Millisecond || time.Since(start) > 5*time.Second {
			t.Errorf("Serve: %v after %v", err, time.Since(start))
		}
		if _, err := io.ReadAll(f); err == nil {
			t.Error("the file can still be read")
		}
	})
	t.Run("a login under way", func(t *testing.T) {
		r := serve(t, hostTree(t, newHostFS(src)), grace)
		nc, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		eventually(t, "the connection", func() bool { return r.counters.Snapshot().Connections == 1 })
		start := time.Now()
		r.stop()
		if err := r.wait(); err != nil || time.Since(start) > soon {
			t.Errorf("Serve: %v after %v", err, time.Since(start))
		}
	})
}

// crowd is a file system with one directory of n files, none of which takes memory.
type crowd struct {
	fsys.FS
	n int
}

func (c crowd) Info() fsys.Info { return fsys.Info{Type: "crowd"} }
func (c crowd) Root() fsys.Ino  { return 1 }
func (c crowd) Close() error    { return nil }

func (c crowd) Stat(i fsys.Ino) (fsys.Attr, error) {
	a := fsys.Attr{Ino: i, Mode: fsys.ModeRegular | 0o644, Nlink: 1, Size: int64(i)}
	if i == 1 {
		a.Mode = fsys.ModeDir | 0o755
	}
	return a, nil
}

func (c crowd) Lookup(fsys.Ino, string) (fsys.Ino, error) { return 0, os.ErrNotExist }
func (c crowd) Open(fsys.Ino) (extent.Reader, error)      { return nil, fsys.ErrNotRegular }

func (c crowd) ReadDir(_ fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	n := 0
	for i := int(from); i < c.n && n < len(out); i++ {
		out[n] = fsys.Dirent{Name: fmt.Sprintf("%0200d", i), Ino: fsys.Ino(i + 2), Type: fsys.ModeRegular, Next: fsys.Cookie(i + 1)}
		n++
	}
	if int(from)+n >= c.n {
		return n, io.EOF
	}
	return n, nil
}

// peak watches the heap, of which the client in this process is a part too, while f runs.
func peak(f func()) uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for {
		select {
		case <-done:
			return most - before
		case <-time.After(20 * time.Millisecond):
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
}

func TestListingOf100000(t *testing.T) {
	const entries = 100_000 // 45 MB on the wire
	r := serve(t, hostTree(t, crowd{n: entries}), nil)
	fixture.Need(t, "sftp")
	out, err := os.Create(filepath.Join(r.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("sftp", append(r.options("-q", "-b", "-"), "oadp@"+r.host)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("ls -1f /backups/b/d\n"), out, os.Stderr
	grown := peak(func() {
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
	})
	if n := strings.Count(readFile(t, out.Name()), "\n/backups"); n != entries {
		t.Errorf("%d of %d entries", n, entries)
	}
	if grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// TestSlowClient asks for far more than it reads.
func TestSlowClient(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	r := serve(t, newTree(t, nil, fixture.OpenRaw(t, path)), nil)
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	send := func(p ...byte) error {
		_, err := in.Write(append([]byte{0, 0, 0, byte(len(p))}, p...))
		return err
	}
	name := "/disks/b/d.raw"
	_ = send(1, 0, 0, 0, 3)
	_ = send(append(append([]byte{3, 0, 0, 0, 1, 0, 0, 0, byte(len(name))}, name...), 0, 0, 0, 1, 0, 0, 0, 0)...)
	grown := peak(func() {
		done := make(chan struct{})
		go func() { // 20,000 reads of 128 KiB: 2.5 GiB
			defer close(done)
			for i := range 20_000 {
				if send(5, 0, 0, 1, 0, 0, 0, 0, 1, '1', 0, 0, 0, 0, byte(i>>8), byte(i), 0, 0, 0, 2, 0, 0) != nil {
					return
				}
			}
		}()
		select {
		case <-done:
		case <-time.After(2 * time.Second): // it waits for us, as it should
		}
		// What the server prepared is still there.
		if _, err := io.CopyN(io.Discard, out, 8<<20); err != nil {
			t.Error(err)
		}
	})
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > 48<<20 { // of which the client's window is 2 MiB and its requests 0.5
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := r.counters.Snapshot().Ops["read"]; n > 2000 {
		t.Errorf("%d reads for a client that takes 64", n)
	}
}

func TestMalformedPackets(t *testing.T) {
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	for name, packet := range map[string]string{
		"endless": "\xff\xff\xff\xff\x01", "empty": "\x00\x00\x00\x00", "short open": "\x00\x00\x00\x05\x03\x00\x00\x00\x01",
		"long name": "\x00\x00\x00\x0d\x11\x00\x00\x00\x01\x7f\xff\xff\xff/abc", "unknown": "\x00\x00\x00\x05\x63\x00\x00\x00\x01",
		"short extension": "\x00\x00\x00\x05\xc8\x00\x00\x00\x01", "short limits": "\x00\x00\x00\x02\xc8\x00",
	} {
		c, err := r.dial()
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, _ := s.StdinPipe()
		if err := s.RequestSubsystem("sftp"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(in, "\x00\x00\x00\x05\x01\x00\x00\x00\x03"+packet)
		_ = in.Close()
		if err := s.Wait(); err != nil && strings.Contains(err.Error(), "without") {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	if _, err := r.client().Stat("/"); err != nil {
		t.Error(err)
	}
}
