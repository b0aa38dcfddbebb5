package sshd

import (
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
)

// login watches a connection until its client has logged in. Its methods but end and the timer's
// are called from one goroutine.
type login struct {
	s     *server
	c     *conn
	timer *time.Timer
	done  atomic.Bool

	offered gossh.PublicKey // the key that was looked at last
	why     error           // it was refused; nil: it was not
}

func newLogin(s *server, c *conn) *login {
	l := &login{s: s, c: c}
	l.timer = time.AfterFunc(s.cfg.LoginGrace, func() {
		if !l.done.Load() {
			s.cfg.Log.Info("ssh: login took too long", "remote", c.addr)
			_ = c.Close()
		}
	})
	return l
}

// allow is asked about each key that the client offers.
func (l *login) allow(ctx ssh.Context, key ssh.PublicKey) bool {
	l.offered = key
	l.why = l.s.authorize(ctx.User(), l.c.addr, key, time.Now())
	return l.why == nil
}

// verified is called with the key that the client has proven to hold.
func (l *login) verified(m gossh.ConnMetadata, key gossh.PublicKey, p *gossh.Permissions, _ string) (*gossh.Permissions, error) {
	// Once more, for the time between: x/crypto/ssh may have asked about it a while ago.
	if l.why = l.s.authorize(m.User(), l.c.addr, key, time.Now()); l.why != nil {
		return nil, l.why
	}
	l.c.who.User, l.c.who.Key = m.User(), fingerprint(key)
	return p, nil
}

// tried is called by x/crypto/ssh after every attempt to log in.
func (l *login) tried(m gossh.ConnMetadata, method string, err error) {
	switch {
	case err == nil:
		l.end()
		if err := l.s.cfg.Audit.Login(l.c.who); err != nil {
			l.s.cfg.Log.Error("ssh: a login was turned away", "remote", l.c.addr, "err", err)
			_ = l.c.Close()
			return
		}
		l.s.cfg.Log.Info("ssh: logged in", "remote", l.c.addr, "key", l.c.who.Key, "client", string(m.ClientVersion()))
	case method != "none":
		who, why := l.c.who, "not a key"
		who.User = m.User()
		if method == "publickey" && l.offered != nil {
			who.Key, why = fingerprint(l.offered), "the key was not proven"
			if l.why != nil {
				why = l.why.Error()
			}
		}
		l.s.cfg.Audit.Refused(who, "login", why)
		l.s.cfg.Log.Info("ssh: login refused", "remote", l.c.addr, "user", m.User(), "method", method, "why", why)
	}
}

func (l *login) end() {
	l.done.Store(true)
	l.timer.Stop()
}

// who is the beginning of what the audit log knows of a connection.
func newWho(address string) audit.Who {
	return audit.Who{Session: audit.NewSession(), Via: "ssh", Address: address}
}
