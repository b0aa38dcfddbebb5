package sshd

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/test/fixture"
)

// TestMemoryOfManyClients lets 64 clients, as many as there may be, read from the real program
// with 64 requests outstanding each. Half of them are OpenSSH's and take what they get; the
// others have asked and take nothing: they leave it in the kernel's buffers, or in the window of
// their channel. In the end those, too, get all that they asked for.
func TestMemoryOfManyClients(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	fixture.Need(t, "sftp")
	const (
		clients = DefaultMaxConns
		limit   = 256 << 10 // KiB
		path    = "/disks/b/d.raw"
	)
	content := make([]byte, 16<<20)
	for i := range content { // no two clusters alike
		content[i] = byte(i*7 ^ i>>9 ^ i>>17)
	}
	img := filepath.Join(t.TempDir(), "d.raw")
	if err := os.WriteFile(img, content, 0o600); err != nil {
		t.Fatal(err)
	}
	server := fixture.Serve(t, fixture.Program(t, fixture.Agent), "--rsync", "off", "--listen-https", "off", "--disk", "b/d="+img+",format=raw")
	s := server.SSH
	key, err := os.ReadFile(s.IdentityFile)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _, _, _, err := gossh.ParseAuthorizedKey([]byte(s.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	config := &gossh.ClientConfig{User: s.User, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.FixedHostKey(hostKey)}
	var lazy []*lazyClient
	for i := range clients / 2 {
		l, err := newLazyClient(s.Address, config, path, i%2 == 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.conn.Close()
		lazy = append(lazy, l)
	}
	host, port, _ := net.SplitHostPort(s.Address)
	var wg sync.WaitGroup
	for range clients / 2 { // from another address, since each has its own limit
		wg.Go(func() {
			get := exec.Command("sftp", "-q", "-b", "-", "-R", "64", "-F", "none", "-P", port, "-i", s.IdentityFile, "-o", "BindAddress=127.0.0.2", "-o", "IdentitiesOnly=yes",
				"-o", "UserKnownHostsFile="+s.KnownHostsFile, "-o", "StrictHostKeyChecking=yes", s.User+"@"+host)
			get.Stdin = strings.NewReader("get " + path + " /dev/null\n")
			if out, err := get.CombinedOutput(); err != nil {
				t.Errorf("sftp: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	for i, l := range lazy {
		if err := l.take(content); err != nil {
			t.Errorf("lazy client %d: %v", i, err)
		}
	}
	peak := 0
	for _, p := range fixture.PeakMemory(t, server.Cmd.Process.Pid) {
		peak += int(p >> 10)
	}
	t.Logf("peak of %d MiB", peak>>10)
	if peak == 0 || peak > limit {
		t.Errorf("%d KiB, want at most %d", peak, limit)
	}
}

// lazyClient has asked for 64 pieces of a file and takes none until it is told to.
type lazyClient struct {
	conn *heldConn
	out  io.Reader
}

// heldConn is a connection from which nothing is read while it is held.
type heldConn struct {
	net.Conn
	mu   sync.Mutex
	held chan struct{} // closed when that is over; nil: it is not held
}

func (h *heldConn) Read(p []byte) (int, error) {
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	if held != nil {
		<-held
	}
	return h.Conn.Read(p)
}

// hold lets a read under way take the next packet, and no further one.
func (h *heldConn) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = make(chan struct{})
}

func (h *heldConn) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		close(h.held)
		h.held = nil
	}
}

// newLazyClient opens a file and asks. The connection itself stops if hold is set, else only what
// reads from the channel, so that the window of that fills.
func newLazyClient(address string, config *gossh.ClientConfig, path string, hold bool) (*lazyClient, error) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &lazyClient{conn: &heldConn{Conn: nc}}
	c, chans, reqs, err := gossh.NewClientConn(l.conn, address, config)
	if err != nil {
		return nil, err
	}
	session, err := gossh.NewClient(c, chans, reqs).NewSession()
	if err != nil {
		return nil, err
	}
	in, _ := session.StdinPipe()
	l.out, _ = session.StdoutPipe()
	if err := session.RequestSubsystem("sftp"); err != nil {
		return nil, err
	}
	if _, err := in.Write(append([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}, openRequest(1, path)...)); err != nil {
		return nil, err
	}
	if _, err := l.next(); err != nil { // VERSION
		return nil, err
	}
	handle, err := l.next()
	if err != nil || handle[0] != fxpHandle {
		return nil, fmt.Errorf("open: %.100q, %w", handle, err)
	}
	var ask []byte
	for i := range uint32(maxPending) {
		ask = append(ask, readRequest(i, string(handle[9:]), uint64(i)*maxRead, maxRead)...)
	}
	if hold {
		l.conn.hold()
	}
	_, err = in.Write(ask)
	return l, err
}

func (l *lazyClient) next() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(l.out, head[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(l.out, p)
	return p, err
}

// take takes the answers, which come in any order, and compares them with the file.
func (l *lazyClient) take(content []byte) error {
	l.conn.release()
	for range maxPending {
		p, err := l.next()
		if err != nil {
			return err
		}
		at := int(replyID(p)) * maxRead
		if !isData(p, replyID(p), content[at:at+maxRead]) {
			return fmt.Errorf("the answer for %d: %.20q", at, p)
		}
	}
	return nil
}
