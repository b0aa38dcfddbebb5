package files

import (
	"container/list"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Passwords may be tried addrBurst times from an address, and then once in addrEvery. When
// more than totalBurst passwords, and then one in totalEvery, were wrong in all, addresses
// have one try only. So guessing stays slow from one address and from many, while a right
// password from an address without wrong ones is always accepted. Each wrong one is answered
// after failureDelay.
const (
	addrBurst    = 10
	addrEvery    = 3 * time.Second
	totalBurst   = 200
	totalEvery   = 100 * time.Millisecond
	failureDelay = 500 * time.Millisecond

	// maxAddrs bounds the addresses that are remembered, about 300 bytes each. Whoever has
	// more addresses than this has one more try for each.
	maxAddrs = 4096
)

// gate checks passwords.
type gate struct {
	want [sha256.Size]byte // of "user:password"
	now  func() time.Time

	mu    sync.Mutex
	total *rate.Limiter
	addrs map[netip.Prefix]*list.Element
	lru   list.List // of *failures, the latest first
}

// failures is what is remembered of an address that gave a wrong password.
type failures struct {
	addr netip.Prefix
	left *rate.Limiter
}

func newGate(user, password string, now func() time.Time) *gate {
	return &gate{
		// Hashes have one length, so comparing them tells nothing about the password's.
		want:  sha256.Sum256([]byte(user + ":" + password)),
		now:   now,
		total: rate.NewLimiter(rate.Every(totalEvery), totalBurst),
		addrs: map[netip.Prefix]*list.Element{},
	}
}

type verdict int

const (
	granted verdict = iota
	wrong
	limited
)

// check judges a password. Judging and counting are one step under the lock, so parallel
// requests get no more tries than others.
func (g *gate) check(addr netip.Prefix, user, password string) verdict {
	got := sha256.Sum256([]byte(user + ":" + password))
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	f := g.failed(addr, now)
	if f != nil && (f.left.TokensAt(now) < 1 || g.total.TokensAt(now) < 1) {
		return limited // without looking: the answer must not depend on the password
	}
	if subtle.ConstantTimeCompare(got[:], g.want[:]) == 1 {
		return granted
	}
	if f == nil {
		f = g.remember(addr)
	}
	f.left.AllowN(now, 1)
	g.total.AllowN(now, 1)
	return wrong
}

// failed returns what is remembered of addr, nil if nothing: an address whose tries have all
// come back is forgotten.
func (g *gate) failed(addr netip.Prefix, now time.Time) *failures {
	e, ok := g.addrs[addr]
	if !ok {
		return nil
	}
	f := e.Value.(*failures)
	if f.left.TokensAt(now) >= addrBurst {
		g.forget(e)
		return nil
	}
	g.lru.MoveToFront(e)
	return f
}

func (g *gate) remember(addr netip.Prefix) *failures {
	if g.lru.Len() >= maxAddrs {
		g.forget(g.lru.Back())
	}
	f := &failures{addr, rate.NewLimiter(rate.Every(addrEvery), addrBurst)}
	g.addrs[addr] = g.lru.PushFront(f)
	return f
}

func (g *gate) forget(e *list.Element) {
	delete(g.addrs, e.Value.(*failures).addr)
	g.lru.Remove(e)
}

// clientOf names the client for limits: an IPv4 address, or the /64 that one IPv6 client has
// for itself. What is not an IP address is one client.
func clientOf(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // bits fit the address
	return p
}
