package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// peer is a holder's connection. Its messages are sent by a goroutine of its own: a holder that
// does not read must not hold up its session.
type peer struct {
	conn *session.Conn
	mu   sync.Mutex
	next []*session.Message // at most one report, and what ends the connection
	wake chan struct{}
	gone chan struct{} // closed when nothing is sent any more
}

func newPeer(c *session.Conn) *peer {
	p := &peer{conn: c, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	go p.run()
	return p
}

func (p *peer) run() {
	defer close(p.gone)
	defer p.conn.Close()
	for range p.wake {
		for {
			p.mu.Lock()
			if len(p.next) == 0 {
				p.mu.Unlock()
				break
			}
			m := p.next[0]
			p.next = p.next[1:]
			p.mu.Unlock()
			if m == nil || p.conn.Send(m, sendLimit) != nil || m.Closed != nil || m.Refused != nil {
				return
			}
		}
	}
}

// send puts m into the queue, where a newer report replaces an older one. nil ends the connection.
func (p *peer) send(m *session.Message) {
	p.mu.Lock()
	if n := len(p.next); m != nil && m.Report != nil && n > 0 && p.next[n-1] != nil && p.next[n-1].Report != nil {
		p.next[n-1] = m
	} else {
		p.next = append(p.next, m)
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// talk serves one connection until it ends.
func (s *Supervisor) talk(ctx context.Context, c *session.Conn) {
	p := newPeer(c)
	defer func() { p.send(nil); <-p.gone }()
	part, err := s.handshake(ctx, c, p)
	<-s.handshakes
	if err != nil {
		var uid any
		if cred, perr := c.Peer(); perr == nil {
			uid = cred.Uid
		}
		s.log.Warn("a holder was refused", "err", err, "peerUID", uid)
		p.send(&session.Message{Refused: &session.Refused{Reason: api.Text(err.Error())}})
		return
	}
	defer part.sess.lost(part, p)
	limit := rate.NewLimiter(messageRate, messageBurst)
	for {
		m, err := c.Receive(0)
		if err != nil {
			if errors.Is(err, session.ErrProtocol) {
				s.log.Warn("a holder broke the protocol", "session", part.sess.id, "part", part.name, "err", err)
			}
			return
		}
		m.Close()
		if !limit.Allow() {
			s.log.Warn("a holder sends too many messages", "session", part.sess.id, "part", part.name)
			return
		}
		switch {
		case m.Closing != nil:
			part.sess.leave(part, p, "as asked")
		case m.Update != nil && part.name == frontPart:
			part.sess.update(part, p, m.Update.Credentials)
		default:
			s.log.Warn("a holder sent what only others send", "session", part.sess.id, "part", part.name)
			return
		}
	}
}

// handshake receives a Hello and takes its part in. All descriptors are closed where it fails.
func (s *Supervisor) handshake(ctx context.Context, c *session.Conn, p *peer) (_ *part, err error) {
	result := "error"
	defer func() { s.metrics.hellos.WithLabelValues(result).Inc() }()
	m, err := c.Receive(helloLimit)
	s.spoke(c)
	if err != nil {
		result = "protocol"
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	h := m.Hello
	if h == nil {
		result = "protocol"
		return nil, fmt.Errorf("%w: the first message is no hello", session.ErrProtocol)
	}
	doc, err := api.Decode([]byte(h.Session))
	if err != nil {
		result = "protocol"
		return nil, err
	}
	if api.ID(h.JoinKey) != doc.ID {
		result = "key"
		return nil, errors.New("the join key is not this session's")
	}
	limited, cancel := context.WithTimeout(ctx, reviewLimit)
	defer cancel()
	who, err := s.cfg.Review.Review(limited, h.Token)
	if err != nil {
		if errors.Is(err, errNotValid) {
			result = "token"
		}
		return nil, err
	}
	if s.cfg.Node != "" && who.Node != "" && who.Node != s.cfg.Node {
		result = "token"
		return nil, fmt.Errorf("%w: its pod runs on the node %.80q", errNotValid, who.Node)
	}
	part, err := newPart(doc, h, m.Files, who)
	if err != nil {
		result = "descriptor"
		return nil, err
	}
	if err := s.join(doc, part, p); err != nil {
		result = "refused"
		return nil, err
	}
	result = "accepted"
	return s.held(part), nil
}

// held is the part that the session knows: part itself, or the one that was there with the same files.
func (s *Supervisor) held(p *part) *part {
	if p.same != nil {
		return p.same
	}
	return p
}

// join finds or begins the session of a part and adds it.
func (s *Supervisor) join(doc *api.Session, p *part, from *peer) error {
	for {
		s.mu.Lock()
		x := s.sessions[doc.ID]
		if x == nil {
			if err := s.mayBegin(p.who.Namespace); err != nil {
				s.mu.Unlock()
				return err
			}
			x = newSession(s, doc, p.who.Namespace)
			s.sessions[doc.ID] = x
		}
		s.mu.Unlock()
		err := x.add(doc, p, from)
		if !errors.Is(err, errOver) {
			return err
		}
		<-x.over // and then a new session begins
	}
}

// mayBegin tells whether one more session is allowed. It is called with the lock held.
func (s *Supervisor) mayBegin(namespace string) error {
	if s.stopping {
		return errStopping
	}
	if len(s.sessions) >= s.cfg.MaxSessions {
		return fmt.Errorf("this node's agent serves %d sessions, which is its limit; end other file restores on this node", len(s.sessions))
	}
	n := 0
	for _, x := range s.sessions {
		if x.namespace == namespace {
			n++
		}
	}
	if n >= perNamespace {
		return fmt.Errorf("%d sessions of the namespace %s are served on this node, which is the limit", n, namespace)
	}
	return nil
}

// remove forgets a session that is over.
func (s *Supervisor) remove(x *sess) {
	s.mu.Lock()
	if s.sessions[x.id] == x {
		delete(s.sessions, x.id)
	}
	s.mu.Unlock()
}
