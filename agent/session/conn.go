package session

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	magic      = "vmfr"
	headerSize = 12
)

// Conn sends and receives messages. One goroutine may receive while others send.
type Conn struct {
	c     *net.UnixConn
	send  sync.Mutex
	frame time.Duration // see frameLimit
}

// NewConn takes a connected stream socket over.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c: c, frame: frameLimit} }

// FileConn takes a connected stream socket over that was inherited.
func FileConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the inherited socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("the inherited socket is of %s, not unix", c.LocalAddr().Network())
	}
	return NewConn(u), nil
}

// Pair is a connection of which one end is for a child process.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	ours, err := FileConn(os.NewFile(uintptr(fds[0]), "socket"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// Close ends the connection, for who else has a copy of its socket, too; a Receive under way fails.
func (c *Conn) Close() error {
	c.drain()
	return c.c.Close()
}

// Peer is who holds the other end, as the kernel sees it (SO_PEERCRED).
func (c *Conn) Peer() (*unix.Ucred, error) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return nil, cerr
	}
	return cred, err
}

// Send sends m within limit. The files stay the caller's. After an error the connection is of no
// more use.
func (c *Conn) Send(m *Message, limit time.Duration) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if len(body) > MaxBytes || len(m.Files) > MaxFiles {
		return fmt.Errorf("send: a message of %d bytes and %d descriptors exceeds the limits of %d and %d", len(body), len(m.Files), MaxBytes, MaxFiles)
	}
	if err := m.validate(len(m.Files)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	frame := make([]byte, headerSize, headerSize+len(body))
	copy(frame, magic)
	binary.BigEndian.PutUint16(frame[4:], Version)
	binary.BigEndian.PutUint16(frame[6:], uint16(len(m.Files)))
	binary.BigEndian.PutUint32(frame[8:], uint32(len(body)))
	frame = append(frame, body...)

	c.send.Lock()
	defer c.send.Unlock()
	if err := c.c.SetWriteDeadline(deadline(limit)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := c.writeFirst(frame, m.Files)
	if err == nil {
		_, err = c.c.Write(frame[n:])
	}
	if err != nil {
		_ = c.Close() // what was sent of the frame would make the next one garbage
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// writeFirst sends the frame's header with the descriptors.
func (c *Conn) writeFirst(frame []byte, files []*os.File) (int, error) {
	if len(files) == 0 {
		return 0, nil
	}
	// Control keeps a file open, and non-blocking as it is, which File.Fd would not.
	fds := make([]int, 0, len(files))
	n, err := withFDs(files, fds, func(fds []int) (int, error) {
		n, _, err := c.c.WriteMsgUnix(frame[:headerSize], unix.UnixRights(fds...), nil)
		return n, err
	})
	return n, err
}

// withFDs calls f while all files are kept open. The depth is at most MaxFiles.
func withFDs(files []*os.File, fds []int, f func([]int) (int, error)) (n int, err error) {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = withFDs(files[1:], append(fds, int(fd)), f) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// Receive reads one message, which must begin and end within limit; zero waits as long as the
// connection lasts for it to begin. What it begins, it must end within frameLimit. io.EOF is the
// other end's close between messages; other errors end the connection's use, and wrap
// ErrProtocol where the other end broke the rules.
func (c *Conn) Receive(limit time.Duration) (*Message, error) {
	if err := c.c.SetReadDeadline(deadline(limit)); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	m := new(Message)
	var header [headerSize]byte
	n, err := c.readHeader(header[:], m)
	if err == nil {
		err = c.readBody(header[:], m)
	}
	if err != nil {
		m.Close()
		if errors.Is(err, io.EOF) && n == 0 {
			return nil, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("receive: %w", err)
	}
	return m, nil
}

// frameLimit is how long a message that has begun may take to arrive.
const frameLimit = 10 * time.Second

// readHeader fills header and collects the descriptors that come with it.
func (c *Conn) readHeader(header []byte, m *Message) (n int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	for n < len(header) {
		read, rights, flags, _, err := c.c.ReadMsgUnix(header[n:], oob)
		if cerr := m.collect(oob[:rights]); err == nil {
			err = cerr // after the descriptors are known, so that they will be closed
		}
		if err == nil && read == 0 {
			err = io.EOF
		}
		if err != nil {
			return n, err
		}
		if flags&unix.MSG_CTRUNC != 0 || len(m.Files) > MaxFiles {
			return n, protocolf("more than %d descriptors", MaxFiles)
		}
		if n == 0 {
			if err := c.c.SetReadDeadline(time.Now().Add(c.frame)); err != nil {
				return n, err
			}
		}
		n += read
	}
	return n, nil
}

// collect adds the descriptors of a control message to m.
func (m *Message) collect(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return protocolf("control message: %v", err)
	}
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			return protocolf("control message: %v", err)
		}
		files, err := take(fds)
		m.Files = append(m.Files, files...)
		if err != nil {
			return err
		}
	}
	return nil
}

// readBody reads and validates what the header announces. Descriptors come with the header only.
func (c *Conn) readBody(header []byte, m *Message) error {
	size, files, err := parseHeader(header)
	if err != nil {
		return err
	}
	if files != len(m.Files) {
		return protocolf("%d descriptors came with a header that announces %d", len(m.Files), files)
	}
	body := new(bytes.Buffer) // grows as bytes come: an announced length alone costs nothing
	if _, err := io.CopyN(body, bodyReader{c, m, make([]byte, unix.CmsgSpace(4*maxRights))}, int64(size)); err != nil {
		return err
	}
	return decode(body.Bytes(), m)
}

// bodyReader reads bytes that no descriptors come with.
type bodyReader struct {
	c   *Conn
	m   *Message // which gets what comes all the same, to be closed
	oob []byte
}

func (r bodyReader) Read(b []byte) (int, error) {
	n, rights, _, _, err := r.c.c.ReadMsgUnix(b, r.oob)
	if rights > 0 {
		_ = r.m.collect(r.oob[:rights])
		return max(n, 0), protocolf("descriptors came with the body of a message")
	}
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return max(n, 0), err // -1 with an error
}

func parseHeader(h []byte) (size, files int, err error) {
	version, n, length := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint32(h[8:])
	switch {
	case string(h[:4]) != magic:
		return 0, 0, protocolf("%q is no vmfr message", h[:4])
	case version != Version:
		return 0, 0, protocolf("protocol version %d instead of %d: holder and agent are of different releases", version, Version)
	case length > MaxBytes:
		return 0, 0, protocolf("a message of %d bytes exceeds the limit of %d", length, MaxBytes)
	case n > MaxFiles:
		return 0, 0, protocolf("%d descriptors exceed the limit of %d", n, MaxFiles)
	}
	return int(length), int(n), nil
}

// decode parses and validates a body; m.Files are there already.
func decode(body []byte, m *Message) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		// Not the error's own words: they may quote a secret.
		return protocolf("a message of %d bytes is not valid JSON of a known kind", len(body))
	}
	if len(strings.TrimSpace(string(body[min(d.InputOffset(), int64(len(body))):]))) > 0 {
		return protocolf("more than one JSON value in a message")
	}
	return m.validate(len(m.Files))
}

// deadline is now plus limit; zero is never.
func deadline(limit time.Duration) time.Time {
	if limit <= 0 || limit == math.MaxInt64 {
		return time.Time{}
	}
	return time.Now().Add(limit)
}
