package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// TestMain is also the program of these tests' workers: a real process at the other end of the
// real protocol, without a sandbox, which serves a line instead of a tree.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "test-worker" {
		if err := testWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testWorker greets every client with the names of its backups, and holds the line until the client
// leaves. The user name of its credentials may tell it to misbehave.
func testWorker() error {
	raw, err := unix.Dup(3)
	if err != nil {
		return err
	}
	conn, err := session.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	var c *session.Configure
	var files, disks []*os.File
	defer func() { runtime.KeepAlive(disks) }() // open until the end, whenever garbage is collected
	report := &api.Report{Version: api.Version, State: api.Serving}
	for {
		m, err := conn.Receive(patience)
		if errors.Is(err, io.EOF) {
			return nil // not needed any more
		}
		if err != nil {
			return err
		}
		if m.Drain != nil {
			return nil
		}
		if m.Run != nil {
			break
		}
		if m.Configure != nil {
			c, files = m.Configure, m.Files
		}
		if m.Part != nil {
			disks = append(disks, m.Files...)
			report.Backups = append(report.Backups, api.BackupReport{Name: m.Part.Backup, State: api.Readable})
		}
	}
	doc, err := api.Decode(c.Session)
	if err != nil {
		return err
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		return err
	}
	// As the real one's, clients that were accepted are served, whenever it is told to drain.
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer client.Close()
				_, _ = fmt.Fprintf(client, "%s %d\n", c.Credentials.SSHUser, len(report.Backups))
				_, _ = io.Copy(io.Discard, client)
			})
		}
	})
	misbehave := string(c.Credentials.SSHUser)
	if misbehave == "audit" {
		audit := files[len(files)-1]
		for i := range 3 {
			_, _ = fmt.Fprintf(audit, `{"event":"read","path":"/%d","session":"ffffffffffff"}`+"\n", i)
		}
		_, _ = fmt.Fprintf(audit, "\x1b[2J\n{\"event\":\"x\"}{\"session\":\"ffffffffffff\"}\n")
	}
	report.ID = doc.ID
	b, _ := json.Marshal(report)
	if misbehave != "late" {
		if err := conn.Send(&session.Message{Report: b}, patience); err != nil {
			return err
		}
	}
	for misbehave == "flood" {
		if err := conn.Send(&session.Message{Pong: &session.Pong{}}, patience); err != nil {
			return err
		}
	}
	if misbehave == "garbage" {
		_, _ = unix.Write(raw, []byte("GET / HTTP/1.1\r\n\r\n"))
	}
	for {
		m, err := conn.Receive(0)
		switch {
		case err != nil:
			return nil
		case m.Drain != nil:
			_ = l.Close()
			clients.Wait()
			return nil
		case m.Ping != nil && misbehave != "hang":
			p := &session.Pong{}
			if misbehave == "broken" {
				p.Error = "the mount is broken"
			}
			_ = conn.Send(&session.Message{Pong: p}, patience)
		}
	}
}

// claims is a Reviewer that believes tokens: "namespace/account/pod".
type claims struct{}

func (claims) Review(_ context.Context, token string) (Identity, error) {
	f := strings.Split(token, "/")
	if len(f) != 3 {
		return Identity{}, errNotValid
	}
	return Identity{Namespace: f[0], ServiceAccount: f[1], Pod: f[2], PodUID: "uid"}, nil
}

// node is a running supervisor on a real socket.
type node struct {
	*Supervisor
	t   testing.TB
	end func()
}

func startNode(t testing.TB, change func(*Config)) *node {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Review: claims{}, Log: testLog(t), Worker: []string{"-"}, FirstUID: 1 << 20, UIDs: 256, Version: "test", Returning: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := newSupervisor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.command = func(_ int, socket *os.File) (*exec.Cmd, error) {
		return &exec.Cmd{Path: "/proc/self/exe", Args: []string{"worker", "test-worker"}, ExtraFiles: []*os.File{socket},
			SysProcAttr: &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	n := &node{Supervisor: s, t: t}
	var once sync.Once
	n.end = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(n.end)
	eventually(t, func() error {
		if !s.serving.Load() {
			return errors.New("it does not listen")
		}
		return nil
	})
	return n
}

// metricsText is what /metrics says.
func (n *node) metricsText() string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// restore is a file restore with its front's listening socket and two disks.
type restore struct {
	n        *node
	doc      *api.Session
	key      []byte
	listener *net.TCPListener
	disks    map[string]*os.File
	address  string
}

var restores struct {
	sync.Mutex
	n int
}

func (n *node) newRestore() *restore {
	n.t.Helper()
	restores.Lock()
	restores.n++
	name := fmt.Sprintf("r%d", restores.n)
	restores.Unlock()
	r := &restore{n: n, key: []byte(fmt.Sprintf("%032s", name)), disks: map[string]*os.File{}}
	r.doc = &api.Session{Version: api.Version, ID: api.ID(r.key), UID: "uid-" + name, Name: name, Namespace: "velero", VM: api.VM{Name: "web", Namespace: "shop"}, SSH: &api.SSH{}}
	for _, b := range []string{"one", "two"} {
		r.doc.Backups = append(r.doc.Backups, api.Backup{Name: b, Timestamp: time.Unix(1e9, 0).UTC(), Disks: []api.Disk{{Name: "d", Mode: api.Filesystem}}})
		path := filepath.Join(n.t.TempDir(), "disk")
		err := os.WriteFile(path, []byte("disk"), 0o600)
		if err == nil {
			r.disks[b], err = os.Open(path)
		}
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = r.disks[b].Close() })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	r.listener, r.address = l.(*net.TCPListener), l.Addr().String()
	n.t.Cleanup(func() { _ = l.Close() })
	return r
}

// hello is a holder's first message.
func (r *restore) hello(part, user string) *session.Message {
	doc, _ := json.Marshal(r.doc)
	h := &session.Hello{Token: r.doc.Name + "/holder/pod", JoinKey: r.key, Session: string(doc), Part: session.Part{Backup: part}}
	m := &session.Message{Hello: h, Files: []*os.File{r.disks[part]}}
	if part == frontPart {
		f, err := r.listener.File()
		if err != nil {
			r.n.t.Error(err)
			return m
		}
		h.SSH, h.Credentials.SSHUser, m.Files = true, []byte(user), []*os.File{f}
		return m
	}
	h.Part.Disks = []session.Disk{{Source: "disk"}}
	return m
}

// dial connects as a holder does.
func (n *node) dial() (*session.Conn, error) {
	c, err := net.Dial("unix", filepath.Join(n.cfg.Dir, api.FileSocket))
	if err != nil {
		return nil, err
	}
	return session.NewConn(c.(*net.UnixConn)), nil
}

// join brings a part and returns its connection and the agent's answer.
func (r *restore) join(part, user string) (*session.Conn, *session.Message, error) {
	c, err := r.n.dial()
	if err != nil {
		return nil, nil, err
	}
	m := r.hello(part, user)
	err = c.Send(m, patience)
	if part == frontPart {
		m.Close() // a copy of the listener
	}
	if err == nil {
		m, err = c.Receive(patience)
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, m, nil
}

// mustJoin is join of a part that is taken.
func (r *restore) mustJoin(part, user string) *session.Conn {
	r.n.t.Helper()
	c, m, err := r.join(part, user)
	if err != nil {
		r.n.t.Fatal(err)
	}
	if m.Accepted == nil {
		r.n.t.Fatalf("the part %q is refused: %+v", part, m.Refused)
	}
	r.n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// greeting is what a client of the session hears; it waits for a worker.
func (r *restore) greeting() (string, error) {
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// until waits for a report that f likes, and returns it.
func until(t testing.TB, c *session.Conn, f func(*api.Report) bool) *api.Report {
	t.Helper()
	for {
		m, err := c.Receive(patience)
		if err != nil {
			t.Fatal(err)
		}
		if m.Report == nil {
			t.Fatalf("%+v instead of a report", m)
		}
		r := &api.Report{}
		if err := json.Unmarshal(m.Report, r); err != nil {
			t.Fatal(err)
		}
		if f(r) {
			return r
		}
	}
}

// idle waits until the supervisor holds nothing any more.
func (n *node) idle() {
	n.t.Helper()
	eventually(n.t, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.sessions) > 0 || n.files != 0 || len(n.conns) > 0 || len(n.silent) > 0 || len(n.handshakes) > 1 || len(n.uids) != n.cfg.UIDs {
			return fmt.Errorf("%d sessions, %d descriptors, %d connections, %d silent, %d handshakes, %d of %d user ids",
				len(n.sessions), n.files, len(n.conns), len(n.silent), len(n.handshakes), len(n.uids), n.cfg.UIDs)
		}
		return nil
	})
}
