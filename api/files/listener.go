package files

import (
	"net"
	"net/netip"
	"sync"

	"vmfr/agent/tree"
)

// limitListener bounds the open connections, in all and of one address.
type limitListener struct {
	net.Listener
	slots    chan struct{}
	done     chan struct{}
	close    sync.Once
	perAddr  int
	counters *tree.Counters

	mu   sync.Mutex
	open map[netip.Prefix]int
}

func newLimitListener(l net.Listener, limits Limits, c *tree.Counters) *limitListener {
	return &limitListener{
		Listener: l, slots: make(chan struct{}, limits.Connections), done: make(chan struct{}),
		perAddr: limits.ConnectionsPerAddr, counters: c, open: map[netip.Prefix]int{},
	}
}

// Accept waits for a free place first, so what is too much stays in the kernel's backlog.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		addr := clientOf(c.RemoteAddr().String())
		if l.enter(addr) {
			return &limitedConn{Conn: c, release: func() { l.leave(addr) }}, nil
		}
		_ = c.Close()
	}
}

// Close stops Accept; open connections stay.
func (l *limitListener) Close() error {
	l.close.Do(func() { close(l.done) })
	return l.Listener.Close()
}

func (l *limitListener) enter(addr netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[addr] >= l.perAddr {
		return false
	}
	l.open[addr]++
	l.counters.Conns(1)
	return true
}

func (l *limitListener) leave(addr netip.Prefix) {
	l.mu.Lock()
	if l.open[addr]--; l.open[addr] == 0 {
		delete(l.open, addr)
	}
	l.mu.Unlock()
	l.counters.Conns(-1)
	<-l.slots
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
