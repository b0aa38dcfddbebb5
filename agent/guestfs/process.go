package guestfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"vmfr/agent/guestfs/nbd"
	"vmfr/agent/guestfs/wire"
	"vmfr/agent/volume"
)

// Time limits. A request's limit runs from the helper's last sign of life, because libguestfs
// serves one request after the other and a request may wait for those before it.
const (
	startLimit = 5 * time.Minute  // with the making of the appliance, without KVM, on a busy machine
	kvmLimit   = 90 * time.Second // with KVM a start takes a few seconds; then it is tried without
	scanLimit  = 5 * time.Minute
	keyLimit   = time.Minute     // key derivation without KVM takes tens of seconds for each key
	mountLimit = 5 * time.Minute // a large log is replayed
	readLimit  = time.Minute
	exitLimit  = 2 * time.Second // between the end of the socket and SIGKILL
)

func limitOf(r *wire.Request) time.Duration {
	switch r.Op {
	case wire.Start:
		if r.KVM {
			return kvmLimit
		}
		return startLimit
	case wire.Scan:
		return scanLimit + time.Duration(len(r.Keys))*keyLimit
	case wire.Mount:
		return mountLimit
	}
	return readLimit
}

// errGone is a request's error where the helper ended, or was ended, before the reply.
var errGone = errors.New("the libguestfs appliance has ended")

// process is a running helper with the disks that it is served.
type process struct {
	child
	conn  *wire.Conn
	done  chan struct{} // closed when all of it has ended and nothing is left
	read  chan struct{} // closed when no more replies are received
	limit func(*wire.Request) time.Duration
	stop  sync.Once
	left  sync.Once // its place

	mounting sync.Mutex
	mounts   map[int]mountResult // by the file system's index, see Appliance.mount

	mu      sync.Mutex
	next    uint64
	calls   map[uint64]*call
	alive   time.Time // the helper's last sign of life, or the first request after none waited
	dead    error     // no more requests
	readErr error     // the first error of a disk
}

// call is a request that waits for replies.
type call struct {
	limit   time.Duration
	replies chan frame // closed without a last reply where the helper ended
}

type frame struct {
	wire.Reply
	payload []byte
}

// maxReplies is how many replies of one request may wait to be read.
const maxReplies = 4

// child is a helper process as it was started, whoever did that.
type child struct {
	sock  *os.File       // our end of its connection
	disks []net.Listener // where it connects to the disks, in their order
	log   *tail
	pid   int          // 0: another process's child
	end   func()       // kills it and all that it started
	wait  func() error // waits until they have ended, and tells how if not in order
	clean func()       // removes what it left
}

// run speaks with a new helper, and serves it the disks. kill ends it.
func run(c *child, limit func(*wire.Request) time.Duration, disks []volume.Disk) *process {
	p := &process{child: *c, conn: wire.NewConn(c.sock), done: make(chan struct{}), read: make(chan struct{}),
		mounts: map[int]mountResult{}, calls: map[uint64]*call{}, limit: limitOf}
	if limit != nil {
		p.limit = limit
	}
	var nbds sync.WaitGroup
	for i, l := range c.disks {
		nbds.Go(func() {
			_ = nbd.Serve(l, disks[i], func(off int64, err error) { p.diskFailed(disks[i].Name, off, err) })
		})
	}
	go p.receive()
	go p.watch()
	go p.await(&nbds)
	return p
}

// kill ends the helper, with qemu and all. It returns at once; done tells when it is over.
func (p *process) kill(why error) {
	p.mu.Lock()
	if p.dead == nil {
		p.dead = why
	}
	p.mu.Unlock()
	p.stop.Do(func() {
		_ = p.sock.Close() // a healthy helper ends by itself
		go func() {
			select {
			case <-p.done:
			case <-time.After(exitLimit):
				p.end()
			}
		}()
	})
}

// await waits for the helper's end and removes what it left.
func (p *process) await(nbds *sync.WaitGroup) {
	err := p.wait()
	if err != nil {
		err = fmt.Errorf("%w (%w%s)", errGone, err, p.log.last())
	} else {
		err = errGone
	}
	p.kill(err)
	for _, l := range p.disks {
		_ = l.Close()
	}
	nbds.Wait()
	p.clean()
	<-p.read // what it hands over is read until the end by whoever asked
	p.mu.Lock()
	for id, c := range p.calls {
		close(c.replies)
		delete(p.calls, id)
	}
	p.mu.Unlock()
	close(p.done)
}

// watch kills a helper that does not answer within the limit of what it was asked for.
func (p *process) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		var limit time.Duration
		for _, c := range p.calls {
			limit = max(limit, c.limit)
		}
		late := limit > 0 && time.Since(p.alive) > limit
		p.mu.Unlock()
		if late {
			p.kill(fmt.Errorf("%w: it did not answer within %v", errGone, limit))
			p.end()
			return
		}
	}
}

// receive hands replies to those who wait for them.
func (p *process) receive() {
	defer close(p.read)
	for {
		var f frame
		var err error
		f.payload, err = p.conn.Receive(&f.Reply)
		if err != nil {
			if errors.Is(err, wire.ErrFrame) {
				p.kill(fmt.Errorf("%w: %w", errGone, err))
			}
			// Otherwise the helper's end says more than the end of its socket.
			return
		}
		p.mu.Lock()
		p.alive = time.Now()
		c := p.calls[f.ID]
		if c != nil && !f.More {
			delete(p.calls, f.ID)
		}
		p.mu.Unlock()
		if c == nil {
			p.kill(fmt.Errorf("%w: %w: a reply to nothing", errGone, wire.ErrFrame))
			return
		}
		c.replies <- f // whoever asked reads until the end
		if !f.More {
			close(c.replies)
		}
	}
}

// do sends a request and calls each for every reply, the last included. Errors: a *wire.Error
// of the appliance, errGone, the first of each's, after which further replies are ignored.
func (p *process) do(ctx context.Context, r *wire.Request, each func(*wire.Reply, []byte) error) error {
	c := &call{limit: p.limit(r), replies: make(chan frame, maxReplies)}
	p.mu.Lock()
	if p.dead != nil {
		p.mu.Unlock()
		return p.dead
	}
	p.next++
	r.ID = p.next
	if len(p.calls) == 0 {
		p.alive = time.Now()
	}
	p.calls[r.ID] = c
	p.mu.Unlock()
	if err := p.conn.Send(r, nil); err != nil {
		<-p.doneSoon(err)
	}
	var first error
	for {
		select {
		case f, ok := <-c.replies:
			switch {
			case !ok:
				return p.death()
			case first != nil:
			case f.Err != nil:
				first = &applianceError{op: r.Op, wire: *f.Err, disk: p.diskError()}
				if f.Lost {
					first = fmt.Errorf("%w: %w", errGone, first)
					p.kill(first)
				}
			case each != nil:
				first = each(&f.Reply, f.payload)
			}
			if !f.More {
				return first
			}
		case <-ctx.Done():
			go func() { // the rest of the replies
				for range c.replies {
				}
			}()
			return context.Cause(ctx)
		}
	}
}

// doneSoon kills a helper that takes no requests, and returns done.
func (p *process) doneSoon(err error) <-chan struct{} {
	p.kill(fmt.Errorf("%w: %w", errGone, err))
	return p.done
}

func (p *process) death() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead == nil {
		return errGone
	}
	return p.dead
}

// ended tells whether no request can succeed any more.
func (p *process) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead != nil
}

// diskFailed keeps why a disk could not be read: the appliance only says "I/O error".
func (p *process) diskFailed(name string, off int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil {
		p.readErr = fmt.Errorf("disk %q at byte %d: %w", name, off, err)
	}
}

func (p *process) diskError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.readErr
}

// tail keeps the end of what the helper and qemu print.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailBytes):]...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(p), nil
}

// last is the last line, as the end of an error message; quoted, since a guest can shape it.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	if l := lines[len(lines)-1]; l != "" {
		return fmt.Sprintf("; it said %q", l[:min(len(l), 300)])
	}
	return ""
}
