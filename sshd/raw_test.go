package sshd

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/extent"
	"vmfr/agent/tree"
)

// raw speaks the protocol packet by packet, as no library's client would.
type raw struct {
	t  testing.TB
	in io.Writer
	// replies in the order of their arrival; closed at the session's end
	replies chan []byte
}

// raw starts a session; its first reply, VERSION, is consumed.
func (r *rig) raw() (*raw, *gossh.Client) {
	r.t.Helper()
	c, err := r.dial()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession()
	if err != nil {
		r.t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.RequestSubsystem("sftp"); err != nil {
		r.t.Fatal(err)
	}
	return newRaw(r.t, in, out), c
}

// peer is RequestServer alone.
func (r *rig) peer(tr *tree.Tree) *raw {
	v := &view{ctx: context.Background(), s: newServer(tr, complete(r.t)), c: &conn{}}
	client, server := net.Pipe()
	rs := sftp.NewRequestServer(server, sftp.Handlers{FileGet: v, FilePut: v, FileCmd: v, FileList: v}, sftp.WithRSMaxTxPacket(maxRead))
	done := make(chan struct{})
	go func() { defer close(done); _ = rs.Serve() }()
	r.t.Cleanup(func() { client.Close(); <-done })
	return newRaw(r.t, client, client)
}

func newRaw(t testing.TB, in io.Writer, out io.Reader) *raw {
	x := &raw{t: t, in: in, replies: make(chan []byte, 1000)}
	go func() {
		defer close(x.replies)
		for {
			var head [4]byte
			if _, err := io.ReadFull(out, head[:]); err != nil {
				return
			}
			p := make([]byte, binary.BigEndian.Uint32(head[:]))
			if _, err := io.ReadFull(out, p); err != nil {
				return
			}
			x.replies <- p
		}
	}()
	x.send([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3})
	x.next()
	return x
}

func (x *raw) send(packet []byte) {
	x.t.Helper()
	if _, err := x.in.Write(packet); err != nil {
		x.t.Fatal(err)
	}
}

// next returns the next reply, from its type on.
func (x *raw) next() []byte {
	x.t.Helper()
	select {
	case p, ok := <-x.replies:
		if !ok {
			x.t.Fatal("the session has ended")
		}
		return p
	case <-time.After(10 * time.Second):
		x.t.Fatal("no reply")
	}
	return nil
}

// open returns the handle of a file.
func (x *raw) open(path string) string {
	x.t.Helper()
	x.send(openRequest(1, path))
	p := x.next()
	if p[0] != fxpHandle {
		x.t.Fatalf("open %s: %q", path, p)
	}
	return string(p[9:])
}

// request builds a packet: id, then the fields, strings with their length.
func request(kind byte, id uint32, fields ...any) []byte {
	p := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, kind}, id)
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			p = appendString(p, f)
		case uint32:
			p = binary.BigEndian.AppendUint32(p, f)
		case uint64:
			p = binary.BigEndian.AppendUint64(p, f)
		case []byte:
			p = append(p, f...)
		}
	}
	setLength(p)
	return p
}

func openRequest(id uint32, path string) []byte {
	return request(3, id, path, uint32(1), uint32(0)) // SSH_FXF_READ, no attributes
}

func readRequest(id uint32, handle string, off uint64, n uint32) []byte {
	return request(fxpRead, id, handle, off, n)
}

func closeRequest(id uint32, handle string) []byte { return request(4, id, handle) }

func replyID(p []byte) uint32 { return binary.BigEndian.Uint32(p[1:]) }

// The parts of a gated disk.
const (
	gatedSize = 4 << 20
	slowAt    = 1 << 20 // reads of the byte here wait
	brokenAt  = 2 << 20 // of the byte here fail
	panicAt   = 3 << 20 // of the byte here panic
)

// gated is a disk with places that do not read as others do.
type gated struct {
	extent.Reader
	content []byte
	armed   atomic.Bool
	entered chan struct{} // gets one for every read that waits
	gate    chan struct{} // closed: no read waits any more
}

// gatedTree is a tree with a gated disk at gatedPath.
func gatedTree(t testing.TB) (*tree.Tree, *gated) {
	t.Helper()
	b := make([]byte, gatedSize)
	for i := range b {
		b[i] = byte(i>>9 ^ i*7)
	}
	g := &gated{Reader: extent.Bytes(b), content: b, entered: make(chan struct{}, 1000), gate: make(chan struct{})}
	tr := newTree(t, nil, g)
	g.armed.Store(true) // now that nobody looks for partitions any more
	return tr, g
}

// openGated opens the gated disk of a tree, without a client.
func openGated(t testing.TB, tr *tree.Tree) *tree.File {
	t.Helper()
	n, err := tr.Resolve(gatedPath, true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tr.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (g *gated) ReadAt(p []byte, off int64) (int, error) {
	over := func(at int64) bool { return off <= at && at < off+int64(len(p)) }
	switch {
	case !g.armed.Load():
	case over(panicAt):
		panic("at the disk")
	case over(brokenAt):
		return 0, io.ErrUnexpectedEOF
	case over(slowAt):
		g.entered <- struct{}{}
		<-g.gate
	}
	return g.Reader.ReadAt(p, off)
}

const gatedPath = "/disks/b/d.raw"
