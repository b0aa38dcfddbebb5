package files

import (
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"vmfr/agent/audit"
)

const (
	// sessionIdle is how long a person stays logged in without doing anything.
	sessionIdle = 12 * time.Hour
	// basicIdle is how long requests with a password from one address are one session of the
	// audit log.
	basicIdle = 15 * time.Minute
	// maxSessions bounds what is remembered, about 300 bytes each; the one that was idle for
	// the longest time ends for a new one.
	maxSessions = 4096
	// cookieName has the prefix with which browsers send a cookie to this host alone, by TLS
	// alone, and take it from nobody else (RFC 6265bis, 4.1.3.2).
	cookieName = "__Host-vmfr"
)

// Logins counts what became of tries to log in. The zero value is ready; a nil *Logins counts
// nothing.
type Logins struct {
	granted, wrong, limited atomic.Uint64
}

// Snapshot returns the counts: sessions begun, wrong passwords, and tries that were refused
// because there had been too many.
func (l *Logins) Snapshot() (granted, wrong, limited uint64) {
	return l.granted.Load(), l.wrong.Load(), l.limited.Load()
}

func (l *Logins) count(v verdict) {
	switch {
	case l == nil:
	case v == granted:
		l.granted.Add(1)
	case v == wrong:
		l.wrong.Add(1)
	default:
		l.limited.Add(1)
	}
}

// sessions are the people who are logged in and the programs that were lately.
type sessions struct {
	now func() time.Time

	mu  sync.Mutex
	all map[sessionKey]*list.Element
	lru list.List // of *session, used last first
}

// sessionKey is the digest of a cookie's token, so that the memory holds no token and no
// comparison tells how much of one was right; or the address of a program.
type sessionKey struct {
	token [sha256.Size]byte
	addr  netip.Prefix
}

// session is one login.
type session struct {
	key  sessionKey
	id   string // for the audit log
	idle time.Duration
	from time.Time
	seen time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, all: map[sessionKey]*list.Element{}}
}

// begin makes a session and returns the token of its cookie.
func (s *sessions) begin() (token string, se *session) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token = base64.RawURLEncoding.EncodeToString(b[:])
	return token, s.add(sessionKey{token: sha256.Sum256([]byte(token))}, sessionIdle)
}

func (s *sessions) add(k sessionKey, idle time.Duration) *session {
	now := s.now()
	se := &session{key: k, id: audit.NewSession(), idle: idle, from: now, seen: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lru.Len() >= maxSessions {
		s.drop(s.lru.Back())
	}
	s.all[k] = s.lru.PushFront(se)
	return se
}

// get finds a session that has not ended, and keeps it from ending.
func (s *sessions) get(k sessionKey) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.all[k]
	if !ok {
		return nil
	}
	se, now := e.Value.(*session), s.now()
	if now.Sub(se.seen) > se.idle {
		s.drop(e)
		return nil
	}
	se.seen = now
	s.lru.MoveToFront(e)
	return se
}

func (s *sessions) end(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.all[se.key]; ok {
		s.drop(e)
	}
}

func (s *sessions) drop(e *list.Element) {
	delete(s.all, e.Value.(*session).key)
	s.lru.Remove(e)
}

// ofCookie returns the session whose cookie a request has.
func (s *sessions) ofCookie(r *http.Request) *session {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	return s.get(sessionKey{token: sha256.Sum256([]byte(c.Value))})
}

// cookie is the session's cookie; an empty token takes it back.
func cookie(token string) *http.Cookie {
	c := &http.Cookie{Name: cookieName, Value: token, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if token == "" {
		c.MaxAge = -1
	}
	return c
}
