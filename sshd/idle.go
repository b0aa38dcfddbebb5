package sshd

import (
	"io"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// touch takes note that the client does something.
func (c *conn) touch() { c.active.Store(time.Now().UnixNano()) }

// activeChannel takes note of every byte that passes.
type activeChannel struct {
	gossh.Channel
	c *conn
}

func (a activeChannel) Read(p []byte) (int, error) {
	n, err := a.Channel.Read(p)
	a.c.touch()
	return n, err
}

func (a activeChannel) Write(p []byte) (int, error) {
	n, err := a.Channel.Write(p)
	a.c.touch()
	return n, err
}

func (a activeChannel) Stderr() io.ReadWriter { return a.Channel.Stderr() }

// watchIdle closes a connection that nobody uses.
func (s *server) watchIdle(c *conn) {
	for {
		left := s.cfg.IdleTimeout - time.Since(time.Unix(0, c.active.Load()))
		if left <= 0 {
			s.cfg.Log.Info("ssh: closing an idle connection", "remote", c.addr)
			_ = c.Close()
			return
		}
		t := time.NewTimer(left)
		select {
		case <-c.ended:
			t.Stop()
			return
		case <-t.C:
		}
	}
}
