package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/agent/tree"
)

const (
	// drainPoll is how often a stopping server looks for idle connections; one that had no
	// open file for drainIdle has received the answer to its last close.
	drainPoll = 50 * time.Millisecond
	drainIdle = 250 * time.Millisecond
	// stuckWait is how long a stopping server waits, after the grace, for reads of connections
	// that it has closed.
	stuckWait = time.Second
	// acceptPause is the wait after a failed accept (out of descriptors, mostly).
	acceptPause = 100 * time.Millisecond
)

// server is one run of Serve.
type server struct {
	tree *tree.Tree
	cfg  Config

	mu     sync.Mutex
	conns  map[*conn]struct{}
	byAddr map[string]int
	wg     sync.WaitGroup // connections
	panics atomic.Uint64

	buffers buffers
}

// conn is one TCP connection.
type conn struct {
	net.Conn
	addr     string    // of the client, without its port
	who      audit.Who // User and Key are set when it has logged in
	login    *login
	files    atomic.Int64 // open handles
	lastFile atomic.Int64 // unix nanoseconds of the last close of a handle
	active   atomic.Int64 // and of the last byte on a channel, see watchIdle
	sessions atomic.Int64 // open channels
	alive    sync.Once    // starts keepalive
	ended    chan struct{}

	mu   sync.Mutex
	over bool           // no session begins any more
	wg   sync.WaitGroup // sessions
}

// begin counts a session among those that the connection's end waits for; false: it has come too late.
// gliderlabs/ssh starts a goroutine for each, which may run when the connection has ended.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.wg.Add(1)
	}
	return !c.over
}

// wait lets no more sessions begin and waits for those under way.
func (c *conn) wait() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.wg.Wait()
}

func newServer(t *tree.Tree, c Config) *server {
	return &server{
		tree: t, cfg: c, conns: map[*conn]struct{}{}, byAddr: map[string]int{},
	}
}

// run accepts until ctx ends or l fails, then drains.
func (s *server) run(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err := s.accept(ctx, l)
	_ = l.Close()
	busy := s.drain()
	if ctx.Err() != nil {
		return busy
	}
	return errors.Join(err, busy)
}

func (s *server) accept(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			s.admit(c)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return fmt.Errorf("ssh: accept: %w", err)
		default:
			s.cfg.Log.Warn("ssh: accept", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// admit starts a connection unless a limit is reached; then the client reads why, in the lines
// that RFC 4253, section 4.2, allows before the version.
func (s *server) admit(nc net.Conn) {
	addr := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	c := &conn{Conn: newWriteBehind(nc), addr: addr, who: newWho(nc.RemoteAddr().String()), ended: make(chan struct{})}
	s.mu.Lock()
	full := len(s.conns) >= s.cfg.MaxConns || s.byAddr[addr] >= s.cfg.MaxConnsPerAddr
	if !full {
		s.conns[c] = struct{}{}
		s.byAddr[addr]++
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if full {
		s.cfg.Log.Warn("ssh: too many connections", "remote", addr)
		s.cfg.Audit.Refused(c.who, "connection", "too many connections")
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write([]byte("Too many connections: close another one and try again.\r\n"))
		_ = nc.Close()
		return
	}
	s.cfg.Counters.Conns(1)
	go s.serveConn(c)
}

func (s *server) serveConn(c *conn) {
	began := time.Now()
	defer func() {
		_ = c.Close()
		close(c.ended)
		c.wait()
		if c.who.Key != "" {
			s.cfg.Audit.Logout(c.who, time.Since(began))
		}
		s.mu.Lock()
		delete(s.conns, c)
		if s.byAddr[c.addr]--; s.byAddr[c.addr] == 0 {
			delete(s.byAddr, c.addr)
		}
		s.mu.Unlock()
		s.cfg.Counters.Conns(-1)
		s.wg.Done()
	}()
	defer s.caught("connection")
	c.login = newLogin(s, c)
	defer c.login.end()
	srv := &ssh.Server{
		Version:              "vmfr_" + s.cfg.Version,
		HostSigners:          []ssh.Signer{s.cfg.HostKey},
		PublicKeyHandler:     c.login.allow,
		ServerConfigCallback: func(ssh.Context) *gossh.ServerConfig { return s.sshConfig(c.login) },
		ConnectionFailedCallback: func(_ net.Conn, err error) {
			s.cfg.Log.Info("ssh: login not completed", "remote", c.addr, "err", err)
		},
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session": func(_ *ssh.Server, sc *gossh.ServerConn, ch gossh.NewChannel, _ ssh.Context) { s.session(c, sc, ch) },
			"default": func(_ *ssh.Server, _ *gossh.ServerConn, ch gossh.NewChannel, _ ssh.Context) { s.refuseChannel(ch) },
		},
		RequestHandlers: map[string]ssh.RequestHandler{
			"keepalive@openssh.com": func(ssh.Context, *ssh.Server, *gossh.Request) (bool, []byte) { return true, nil },
		},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{},
	}
	srv.HandleConn(c)
}

// caught is the last net under a goroutine that talks to a client; it must be deferred directly.
func (s *server) caught(what string) {
	if p := recover(); p != nil {
		s.panics.Add(1)
		s.cfg.Log.Error("ssh: internal error", "in", what, "panic", p, "stack", string(debug.Stack()))
	}
}

// drain closes connections as they become idle, and all of them after the grace, and returns
// when they have ended, or ErrBusy.
func (s *server) drain() error {
	over := time.Now().Add(s.cfg.ShutdownGrace)
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	var closed time.Time // when the grace was over and all were closed; this process may not have run at over
	for {
		late := time.Now().After(over)
		s.mu.Lock()
		left := len(s.conns)
		for c := range s.conns {
			if late || c.idleFor() >= drainIdle {
				_ = c.Close()
			}
		}
		s.mu.Unlock()
		if late && closed.IsZero() {
			closed = time.Now()
		}
		if left == 0 {
			s.wg.Wait()
			return nil
		}
		if late && time.Since(closed) > stuckWait {
			s.cfg.Log.Error("ssh: connections were closed but still read from an image", "connections", left)
			return ErrBusy
		}
		<-tick.C
	}
}

// idleFor tells for how long no file has been open.
func (c *conn) idleFor() time.Duration {
	if c.files.Load() > 0 {
		return 0
	}
	return time.Since(time.Unix(0, c.lastFile.Load()))
}
