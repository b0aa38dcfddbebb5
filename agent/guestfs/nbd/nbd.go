// Package nbd serves one extent.Reader by the NBD protocol, read-only, to qemu.
//
// It exists beside the library github.com/pojntfx/go-nbd because that server (v0.3.2) answers
// "success" before it reads, so that one unreadable range of an image ends the connection and
// with it, in qemu, the whole disk; it reads one request at a time; and it allocates what the
// client says a name is long. Here an unreadable range is EIO for that range, several reads are
// under way at once, and holes cost no memory traffic of the image.
//
// Implemented: fixed newstyle negotiation with NBD_OPT_EXPORT_NAME, GO, INFO, LIST and ABORT;
// simple replies; NBD_CMD_READ, DISC and, as no-op, FLUSH. Non-goals: writing, TLS, structured
// replies, several exports. Source: https://github.com/NetworkBlockDevice/nbd, doc/proto.md.
//
// Invariants: nothing that the client sends makes the server allocate more than MaxRequest for
// each of at most maxInFlight requests.
package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"vmfr/agent/extent"
)

// MaxRequest is the largest read in bytes; qemu keeps below it, as it is announced.
const MaxRequest = 4 << 20

const (
	maxInFlight = 8       // of one connection
	maxOption   = 4 << 10 // bytes: an export's name is at most 4096 bytes, by the protocol
	maxOptions  = 64      // of one negotiation

	magicInit    = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698

	flagFixedNewstyle, flagNoZeroes = 1, 2

	optExportName, optAbort, optList, optInfo, optGo = 1, 2, 3, 6, 7
	repAck, repServer, repInfo                       = 1, 2, 3
	repErrUnsup, repErrInvalid                       = 1<<31 | 1, 1<<31 | 3
	infoExport, infoBlockSize                        = 0, 3

	// Transmission flags: HAS_FLAGS, READ_ONLY, SEND_FLUSH, CAN_MULTI_CONN.
	transmission = 1 | 1<<1 | 1<<2 | 1<<8

	cmdRead, cmdWrite, cmdDisc, cmdFlush = 0, 1, 2, 3

	errPerm, errIO, errInval = 1, 5, 22
)

// ErrProtocol reports a client that does not keep to the protocol.
var ErrProtocol = errors.New("nbd: not the protocol")

// Serve accepts connections until l is closed, and returns when all have ended. Closing l does
// not end them: their clients do. failed, if not nil, is told of each read that failed.
func Serve(l net.Listener, r extent.Reader, failed func(off int64, err error)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer c.Close()
			_ = Handle(c, r, failed) // a client that breaks off has nobody to tell
		}()
	}
}

// Handle speaks with one client until it ends the connection, which returns nil.
func Handle(c io.ReadWriter, r extent.Reader, failed func(off int64, err error)) error {
	s := &server{r: bufio.NewReader(c), w: c, dev: r, failed: failed, slots: make(chan struct{}, maxInFlight)}
	ok, err := s.negotiate()
	if err != nil || !ok {
		return err
	}
	err = s.transmit()
	s.wg.Wait()
	if err == io.EOF {
		return nil
	}
	return err
}

type server struct {
	r      *bufio.Reader
	dev    extent.Reader
	failed func(int64, error)
	slots  chan struct{}
	wg     sync.WaitGroup

	mu sync.Mutex // of w
	w  io.Writer
}

func (s *server) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.w.Write(b)
	return err
}

// negotiate returns false where the client only asked.
func (s *server) negotiate() (bool, error) {
	b := binary.BigEndian.AppendUint64(nil, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if err := s.write(b); err != nil {
		return false, err
	}
	var h [16]byte
	if _, err := io.ReadFull(s.r, h[:4]); err != nil {
		return false, err
	}
	client := binary.BigEndian.Uint32(h[:])
	for range maxOptions {
		if _, err := io.ReadFull(s.r, h[:]); err != nil {
			return false, err
		}
		opt, n := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		if binary.BigEndian.Uint64(h[:]) != magicOption || n > maxOption {
			return false, fmt.Errorf("%w: option %d of %d bytes", ErrProtocol, opt, n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(s.r, data); err != nil {
			return false, err
		}
		switch opt {
		case optExportName: // any name: there is one export
			b := binary.BigEndian.AppendUint64(nil, uint64(s.dev.Size()))
			b = binary.BigEndian.AppendUint16(b, transmission)
			if client&flagNoZeroes == 0 {
				b = append(b, make([]byte, 124)...)
			}
			return true, s.write(b)
		case optGo, optInfo:
			if !validInfo(data) {
				if err := s.reply(opt, repErrInvalid, nil); err != nil {
					return false, err
				}
				continue
			}
			if err := s.info(opt); err != nil || opt == optGo {
				return err == nil, err
			}
		case optList:
			if err := s.reply(opt, repServer, make([]byte, 4)); err != nil { // one export without a name
				return false, err
			}
			if err := s.reply(opt, repAck, nil); err != nil {
				return false, err
			}
		case optAbort:
			return false, s.reply(opt, repAck, nil)
		default:
			if err := s.reply(opt, repErrUnsup, nil); err != nil {
				return false, err
			}
		}
	}
	return false, fmt.Errorf("%w: more than %d options", ErrProtocol, maxOptions)
}

// validInfo checks the data of NBD_OPT_INFO and GO: a name, and a list of 16-bit numbers.
func validInfo(b []byte) bool {
	if len(b) < 6 {
		return false
	}
	name := uint64(binary.BigEndian.Uint32(b))
	if name > uint64(len(b)-6) {
		return false
	}
	n := uint64(binary.BigEndian.Uint16(b[4+name:]))
	return uint64(len(b)) == 6+name+2*n
}

// info announces the export's size and block sizes.
func (s *server) info(opt uint32) error {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(s.dev.Size()))
	b = binary.BigEndian.AppendUint16(b, transmission)
	if err := s.reply(opt, repInfo, b); err != nil {
		return err
	}
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 4096)
	b = binary.BigEndian.AppendUint32(b, MaxRequest)
	if err := s.reply(opt, repInfo, b); err != nil {
		return err
	}
	return s.reply(opt, repAck, nil)
}

func (s *server) reply(opt, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return s.write(append(b, data...))
}

// transmit answers requests. It returns io.EOF where the client ends the connection.
func (s *server) transmit() error {
	for {
		var h [28]byte
		if _, err := io.ReadFull(s.r, h[:]); err != nil {
			return err
		}
		cmd, n := binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint32(h[24:])
		cookie, off := binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:])
		if binary.BigEndian.Uint32(h[:]) != magicRequest {
			return fmt.Errorf("%w: bad request", ErrProtocol)
		}
		switch cmd {
		case cmdDisc:
			return io.EOF
		case cmdRead:
			size := uint64(s.dev.Size())
			if n == 0 || n > MaxRequest || off > size || uint64(n) > size-off {
				if err := s.simple(cookie, errInval, nil); err != nil {
					return err
				}
				continue
			}
			s.slots <- struct{}{}
			s.wg.Add(1)
			go func() {
				defer func() { <-s.slots; s.wg.Done() }()
				s.read(cookie, int64(off), int(n))
			}()
		case cmdFlush:
			if err := s.simple(cookie, 0, nil); err != nil {
				return err
			}
		case cmdWrite:
			if _, err := io.CopyN(io.Discard, s.r, int64(n)); err != nil {
				return err
			}
			if err := s.simple(cookie, errPerm, nil); err != nil {
				return err
			}
		default:
			if err := s.simple(cookie, errInval, nil); err != nil {
				return err
			}
		}
	}
}

// read answers one NBD_CMD_READ. An error of the answer itself shows at the next request.
func (s *server) read(cookie uint64, off int64, n int) {
	b := make([]byte, 16+n)
	if err := readAt(s.dev, b[16:], off); err != nil {
		if s.failed != nil {
			s.failed(off, err)
		}
		_ = s.simple(cookie, errIO, nil)
		return
	}
	_ = s.simple(cookie, 0, b)
}

// readAt fills p, leaving out what Extent says is a hole. A panic of the reader is an error of
// this range: it must not end the worker that serves it.
func readAt(r extent.Reader, p []byte, off int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("nbd: the image's reader stopped, which is a defect of this program: %v", v)
		}
	}()
	if x, err := r.Extent(off, int64(len(p))); err == nil && x.Zero && x.Len >= int64(len(p)) {
		return nil
	}
	_, err = extent.ReadFull(r, p, off)
	return err
}

// simple sends a reply; b is the reply with 16 bytes for the header before the data, or nil.
func (s *server) simple(cookie uint64, code uint32, b []byte) error {
	if b == nil {
		b = make([]byte, 16)
	}
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], code)
	binary.BigEndian.PutUint64(b[8:], cookie)
	return s.write(b)
}
