package sshd

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/tree"
)

// refuseChannel answers direct-tcpip, forwarded-tcpip, streamlocal, x11, tun and the rest.
func (s *server) refuseChannel(ch gossh.NewChannel) {
	s.cfg.Counters.Count(tree.OpRefused)
	_ = ch.Reject(gossh.Prohibited, "this server offers sftp, scp and rsync only, no forwarding")
}

// session serves one channel of type session (RFC 4254, section 6).
func (s *server) session(c *conn, sc *gossh.ServerConn, nc gossh.NewChannel) {
	if !c.begin() {
		return
	}
	defer c.wg.Done()
	defer s.caught("session")
	if c.sessions.Add(1) > maxSessions {
		c.sessions.Add(-1)
		s.cfg.Counters.Count(tree.OpRefused)
		_ = nc.Reject(gossh.ResourceShortage, fmt.Sprintf("more than %d sessions on one connection", maxSessions))
		return
	}
	defer c.sessions.Add(-1)
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	c.alive.Do(func() {
		go s.keepalive(c, sc)
		if s.cfg.IdleTimeout > 0 {
			go s.watchIdle(c)
		}
	})
	if s.cfg.IdleTimeout > 0 {
		c.touch()
		ch = activeChannel{ch, c}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ended chan uint32 // the exit status of what runs; nil: nothing does
	for {
		select {
		case req, ok := <-reqs:
			if !ok { // the client closed the channel, or the connection is gone
				if ended != nil {
					cancel()
					_ = ch.Close()
					<-ended
				}
				return
			}
			if ended != nil {
				_ = req.Reply(false, nil)
				continue
			}
			run, over := s.request(c, sc, ch, req)
			if over {
				return
			}
			if run != nil {
				ended = make(chan uint32, 1)
				c.wg.Add(1)
				go func() {
					status := uint32(1)
					defer c.wg.Done()
					defer func() { ended <- status }()
					defer s.caught("session")
					status = run(ctx)
				}()
			}
		case status := <-ended:
			exit(ch, status)
			return
		}
	}
}

// request decides about a request on a session where nothing runs yet: run is what it asks for,
// nil if it is refused; over tells that the session ends with that.
func (s *server) request(c *conn, sc *gossh.ServerConn, ch gossh.Channel, req *gossh.Request) (run func(context.Context) uint32, over bool) {
	switch name := stringPayload(req); {
	case req.Type == "subsystem" && name == "sftp":
		_ = req.Reply(true, nil)
		return func(ctx context.Context) uint32 { s.serveSFTP(ctx, c, ch); return 0 }, false
	case req.Type == "exec" && len(name) > 0:
		if run := s.command(c, ch, name); run != nil {
			_ = req.Reply(true, nil)
			return run, false
		}
	}
	return nil, s.refuse(c, sc, ch, req)
}

// refuse answers a request for anything else and tells whether that ends the session. shell and
// exec are accepted first, since a client shows what the server writes only then.
func (s *server) refuse(c *conn, sc *gossh.ServerConn, ch gossh.Channel, req *gossh.Request) bool {
	switch req.Type {
	case "shell", "exec":
		_ = req.Reply(true, nil)
	case "subsystem":
		defer func() { _ = req.Reply(false, nil) }()
	default: // pty-req, env, x11-req, auth-agent-req@openssh.com, signal, window-change, ...
		_ = req.Reply(false, nil)
		return false
	}
	s.cfg.Counters.Count(tree.OpRefused)
	s.cfg.Audit.Refused(c.who, strings.TrimSpace(req.Type+" "+shorten(stringPayload(req))), "only sftp, scp and rsync are offered")
	host, port := "HOST", "22"
	if h, p, err := net.SplitHostPort(sc.LocalAddr().String()); err == nil {
		host, port = h, p
	}
	_, _ = fmt.Fprintf(ch.Stderr(), "this server offers sftp, scp and rsync only: sftp -P %s %s@%s\r\n", port, s.cfg.User, host)
	exit(ch, 1)
	return true
}

// shorten keeps what a client chose within sensible bounds for a log.
func shorten(s string) string {
	if len(s) > 1024 {
		return s[:1024] + "..."
	}
	return s
}

// stringPayload decodes the one string of a subsystem or exec request.
func stringPayload(req *gossh.Request) string {
	var p struct{ Value string }
	if gossh.Unmarshal(req.Payload, &p) != nil {
		return ""
	}
	return p.Value
}

// exit tells the client the session's status (RFC 4254, section 6.10).
func exit(ch gossh.Channel, status uint32) {
	_, _ = ch.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{status}))
	_ = ch.CloseWrite()
}

// keepalive asks a client for signs of life until its connection ends, and closes it when there
// is none: otherwise a client whose network vanished behind a proxy would keep its place for
// hours. Any answer will do, also a refusal.
func (s *server) keepalive(c *conn, sc *gossh.ServerConn) {
	tick := time.NewTicker(s.cfg.Keepalive)
	defer tick.Stop()
	answer := make(chan struct{}, 1)
	for missed, asking := 0, false; ; {
		select {
		case <-c.ended:
			return
		case <-answer:
			missed, asking = 0, false
		case <-tick.C:
			if asking {
				if missed++; missed >= keepaliveMisses {
					s.cfg.Log.Info("ssh: client gives no sign of life", "remote", c.addr)
					_ = c.Close()
					return
				}
				continue
			}
			asking = true
			go func() {
				_, _, _ = sc.SendRequest("keepalive@openssh.com", true, nil)
				answer <- struct{}{}
			}()
		}
	}
}
