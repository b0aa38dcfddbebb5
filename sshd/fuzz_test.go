package sshd

import (
	"bytes"
	"context"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"vmfr/agent/extent"
)

// complete is a configuration with its defaults.
func complete(t testing.TB) Config {
	t.Helper()
	k := newSigner(t, "")
	c, err := Config{User: "oadp", HostKey: k, AuthorizedKeys: []AuthorizedKey{{Key: k.PublicKey()}}}.complete()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// script is a client that sends what it was given, whatever it is answered.
type script struct {
	io.Reader
	io.Writer
}

func (script) Close() error { return nil }

// FuzzWire sends packets of any form to the protocol's implementation: wire, RequestServer and
// view. It must not panic, hang or keep anything, nor allocate more than each request warrants.
func FuzzWire(f *testing.F) {
	const path = "/disks/b/d.raw"
	stream := func(packets ...[]byte) []byte { return bytes.Join(packets, nil) }
	init := []byte{0, 0, 0, 5, 1, 0, 0, 0, 3}
	open := openRequest(1, path)
	for _, packets := range [][][]byte{
		{init, open, readRequest(2, "1", 0, 100), readRequest(2, "1", 4090, 1<<32-1), readRequest(3, "1", 1<<64-1, 1), closeRequest(4, "1")},
		{init, open, closeRequest(2, "1"), readRequest(3, "1", 0, 0), closeRequest(4, "1"), open[:len(open)-2]},
		{init, request(11, 1, "/"), request(12, 2, "1"), request(12, 2, "1"), readRequest(3, "1", 0, 9), open, request(8, 5, "2")},
		{init, request(17, 1, path), request(7, 2, "/disks"), request(16, 3, "../x"), request(19, 4, "/restores"), request(13, 5, path)},
		{init, request(fxpExtended, 1, limitsExtension), request(fxpExtended, 2, "statvfs@openssh.com", "/"), request(fxpExtended, 3, "none")},
		{init, open, request(6, 2, "1", uint64(0), "content"), request(18, 3, path, path), request(20, 4, path, path), request(99, 5)},
		{{0xff, 0xff, 0xff, 0xff, 5}}, {{0, 0, 0, 0}}, {{0, 4, 0, 0, 5}}, {request(fxpRead, 1, strings.Repeat("x", 100))},
	} {
		f.Add(stream(packets...))
	}
	s := newServer(newTree(f, nil, extent.Bytes(make([]byte, 1<<20))), complete(f))
	f.Fuzz(func(t *testing.T, sent []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c := &conn{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serveSFTP(context.Background(), c, script{bytes.NewReader(sent), io.Discard})
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			t.Fatal("the session does not end")
		}
		runtime.ReadMemStats(&after)
		// A request takes 9 bytes; RequestServer's answer to one may have a buffer for maxRead.
		most := uint64(2<<20) + uint64(len(sent)/9+1)*3*maxRead
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%d bytes for a stream of %d", n, len(sent))
		}
		if n := c.files.Load(); n != 0 {
			t.Errorf("%d files stay open", n)
		}
		if n := s.panics.Load(); n != 0 {
			t.Fatalf("%d panics", n)
		}
	})
}
