package files

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that moves when told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func addrOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

func TestGateLimitsOneAddress(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	g := newGate("u", "p", c.now)
	a, b := addrOf(1), addrOf(2)
	for i := range addrBurst {
		if v := g.check(a, "u", "wrong"); v != wrong {
			t.Fatalf("try %d: %v", i, v)
		}
	}
	// Even the right password is refused now: the answer must not tell a guesser anything.
	if g.check(a, "u", "wrong") != limited || g.check(a, "u", "p") != limited {
		t.Error("the limit does not hold")
	}
	if g.check(b, "u", "p") != granted {
		t.Error("another address is locked out")
	}
	c.move(addrEvery)
	if g.check(a, "u", "p") != granted {
		t.Error("the right password is refused after the wait")
	}
	if g.check(a, "u", "x") != wrong || g.check(a, "u", "x") != limited {
		t.Error("more than one try came back")
	}
	c.move(addrBurst * addrEvery)
	if g.check(a, "u", "p") != granted || len(g.addrs) != 0 || g.lru.Len() != 0 {
		t.Error("the address is not forgotten")
	}
	for _, bad := range [][2]string{{"", ""}, {"u", ""}, {"", "p"}, {"u:p", ""}, {"U", "p"}, {"u", "p "}} {
		if g.check(addrOf(9), bad[0], bad[1]) != wrong {
			t.Errorf("%q was let in", bad)
		}
	}
}

func TestGateLimitsAllAddresses(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	g := newGate("u", "p", c.now)
	for i := range totalBurst {
		g.check(addrOf(i), "u", "wrong")
	}
	if g.check(addrOf(3), "u", "wrong") != limited {
		t.Error("a second try is free during an attack from many addresses")
	}
	if g.check(addrOf(1e6), "u", "p") != granted {
		t.Error("an attack from other addresses locks the right password out")
	}
	for i := range 3 * maxAddrs {
		g.check(addrOf(i), "u", "wrong")
	}
	if len(g.addrs) > maxAddrs || g.lru.Len() != len(g.addrs) {
		t.Errorf("%d addresses are remembered", len(g.addrs))
	}
}

func TestGateConcurrentTries(t *testing.T) {
	g := newGate("u", "p", func() time.Time { return time.Unix(1e9, 0) })
	var tries atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if g.check(addrOf(1), "u", "wrong") == wrong {
				tries.Add(1)
			}
		}()
	}
	wg.Wait()
	if tries.Load() != addrBurst {
		t.Errorf("%d tries, want %d", tries.Load(), addrBurst)
	}
}

func TestClientOf(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.2.3:5": "10.1.2.3/32", "[::ffff:10.1.2.3]:5": "10.1.2.3/32", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64", "[fe80::1%eth0]:5": "fe80::/64", "@": "invalid Prefix",
	} {
		if got := clientOf(in).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestAuthentication(t *testing.T) {
	img, _, _ := guest(t)
	c := &clock{t: time.Unix(1e9, 0)}
	var waited atomic.Int64
	s := start(t, openTree(t, map[string]string{"root": img}), func(cfg *Config) {
		cfg.now = c.now
		cfg.wait = func(_ context.Context, d time.Duration) { waited.Add(int64(d)) }
		cfg.Ready = func() error { return errors.New("secret-backup-name is loading") }
		cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	})
	cl := s.client(false)
	for _, p := range []string{"/", "/files/", "/files" + disk + "/etc/hosts", "/files/nothing", "/api/v1/backups", "/x"} {
		a := s.do(cl, "GET", p, "Authorization: ")
		a.problem(t, 401, "unauthorized")
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic realm=") {
			t.Errorf("%s: %v", p, a.header)
		}
	}
	if waited.Load() != 0 {
		t.Error("a first request without a password was delayed")
	}
	if a := s.do(cl, "GET", "/healthz", "Authorization: "); a.status != 200 {
		t.Errorf("healthz: %d", a.status)
	}
	if a := s.do(cl, "GET", "/metrics", "Authorization: "); string(a.body) != "up 1\n" {
		t.Errorf("metrics: %d", a.status)
	}
	a := s.do(cl, "GET", "/readyz", "Authorization: ")
	a.problem(t, 503, "not_ready")
	if strings.Contains(string(a.body), "secret") {
		t.Errorf("readyz tells anyone: %s", a.body)
	}
	const guess = "Authorization: Basic b2FkcDpndWVzc2VkLXNlY3JldA==" // oadp:guessed-secret
	for range addrBurst {
		s.do(cl, "GET", "/files/", guess).problem(t, 401, "unauthorized")
	}
	if waited.Load() != addrBurst*int64(failureDelay) {
		t.Errorf("delays: %v", time.Duration(waited.Load()))
	}
	a = s.do(cl, "GET", "/files/", guess)
	a.problem(t, 429, "too_many_failures")
	if a.header.Get("Retry-After") != "3" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	c.move(addrEvery)
	if a := s.get("/files/"); a.status != 200 {
		t.Errorf("after the wait: %d", a.status)
	}
	if log := s.log.String(); strings.Contains(log, "guessed-secret") || strings.Contains(log, testPassword) || strings.Contains(log, "b2FkcD") || !strings.Contains(log, "status=401") {
		t.Error("the log holds a password, or no failure")
	}
}
