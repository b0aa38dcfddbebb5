package sshd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	// maxPacket is the longest packet that pkg/sftp takes, and OpenSSH's client, too.
	maxPacket = 256 << 10
	// maxRead is the most content in one reply: what fits in a packet, as OpenSSH's server
	// counts it. sshfs -o max_read asks for up to 64 KiB and takes a shorter reply for the end
	// of the file, so it must not be less than that.
	maxRead = maxPacket - 1024
	// maxPending bounds the requests of one session that are not answered yet.
	maxPending = 64
	// maxReading bounds the content of one session that is being read or waits to be sent, in
	// bytes: with all DefaultMaxConns connections busy 128 MiB. Further requests wait.
	maxReading = 2 << 20
)

// Packet types and flags of draft-ietf-secsh-filexfer-02, sections 3 and 5.
const (
	fxpVersion       = 2
	fxpRead          = 5
	fxpWrite         = 6
	fxpStatus        = 101
	fxpHandle        = 102
	fxpData          = 103
	fxpName          = 104
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201

	attrSize        = 1 << 0
	attrOwner       = 1 << 1
	attrPermissions = 1 << 2
	attrTimes       = 1 << 3
	attrExtended    = 1 << 31
)

const limitsExtension = "limits@openssh.com"

// errWire is a packet that does not follow the protocol.
var errWire = errors.New("sftp: malformed packet")

// wire stands between an SSH channel and pkg/sftp's RequestServer and adds what that has no
// interface for:
//   - limits@openssh.com, without which OpenSSH's client reads 32 KiB at a time;
//   - access times: RequestServer sends the time of modification in their place, so view
//     hands over the real one as an extended attribute (see atimeMark) and wire moves it where
//     it belongs;
//   - backpressure: no request is read while maxPending wait for an answer;
//   - reads of one file that wait for no others (see startRead): RequestServer keeps
//     all replies in the order of the requests. With READ and WRITE taken from it, it handles
//     one request at a time; it does not guard what an OPEN writes against a READ or WRITE
//     whose handle is a guess;
//   - whole packets: a header and its content are one write to the channel.
//
// RequestServer reads from one goroutine and writes from one at a time; each read has its own.
type wire struct {
	ch    io.ReadWriteCloser
	v     *view
	reads sync.WaitGroup      // started by Read, see startRead
	room  *semaphore.Weighted // of maxReading bytes
	// of them maxAhead bytes for what was not asked for yet
	aheadRoom *semaphore.Weighted

	head    [5 + maxReadRequest]byte // the packet being read, or its beginning
	in      []byte                   // what is left of it
	inBody  int                      // and how much of it is still to come from ch
	mu      sync.Mutex
	answer  sync.Cond // pending fell, or err is set
	pending int
	err     error // of the channel: nothing goes on after it

	writing sync.Mutex // one packet at a time on ch
	out     []byte     // a packet that is not complete yet
}

func newWire(ch io.ReadWriteCloser, v *view) *wire {
	w := &wire{ch: ch, v: v, room: semaphore.NewWeighted(maxReading), aheadRoom: semaphore.NewWeighted(maxAhead)}
	v.wire = w
	w.answer.L = &w.mu
	return w
}

// Read gives RequestServer the client's packets, without those that wire answers itself.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.in) == 0 && w.inBody == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	if len(w.in) > 0 {
		n := copy(p, w.in)
		w.in = w.in[n:]
		return n, nil
	}
	n, err := w.ch.Read(p[:min(len(p), w.inBody)])
	w.inBody -= n
	return n, err
}

// next takes the next packet: it is answered here, or in becomes its beginning and inBody the
// length of the rest.
func (w *wire) next() error {
	w.mu.Lock()
	for w.pending >= maxPending && w.err == nil {
		w.answer.Wait()
	}
	w.pending++
	err := w.err
	w.mu.Unlock()
	if err != nil {
		return err
	}
	head := w.head[:5]
	if _, err := io.ReadFull(w.ch, head); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head)
	if n < 1 || n > maxPacket {
		return fmt.Errorf("%w: length %d", errWire, n)
	}
	body := int(n) - 1
	switch head[4] {
	case fxpRead, fxpWrite, fxpExtended:
	default:
		w.in, w.inBody = head, body
		return nil
	}
	packet := w.head[:]
	if 5+body > len(packet) {
		packet = append(make([]byte, 0, 5+body), head...)
	}
	packet = packet[:5+body]
	if _, err := io.ReadFull(w.ch, packet[5:]); err != nil {
		return err
	}
	reply, taken := w.take(packet)
	switch {
	case !taken:
		w.in = packet
	case reply != nil:
		return w.send(reply)
	}
	return nil
}

// take answers a request in place of RequestServer, with reply or, if that is nil, later. What
// is malformed is left to RequestServer, which ends the session.
func (w *wire) take(packet []byte) (reply []byte, taken bool) {
	d := decoder{b: packet, at: 5}
	id := d.u32()
	switch packet[4] {
	case fxpRead:
		name, off, n := d.str(), d.u64(), d.u32()
		if d.bad {
			return nil, false
		}
		f := w.v.open.get(name)
		if f == nil {
			return statusPacket(id, errHandle), true
		}
		w.startRead(f, id, int64(off), int(min(n, maxRead)))
		return nil, true
	case fxpWrite:
		if d.bad {
			return nil, false
		}
		return statusPacket(id, w.v.refused("write")), true
	}
	if name := d.str(); d.bad || string(name) != limitsExtension {
		return nil, false
	}
	reply = append(make([]byte, 4, 64), fxpExtendedReply)
	reply = binary.BigEndian.AppendUint32(reply, id)
	for _, v := range []uint64{maxPacket, maxRead, maxRead, maxHandles} { // packet, read, write, handles
		reply = binary.BigEndian.AppendUint64(reply, v)
	}
	setLength(reply)
	return reply, true
}

// Write takes pieces of packets from RequestServer and sends whole ones.
func (w *wire) Write(p []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, err
	}
	if len(w.out) == 0 && len(p) >= 5 && p[4] == fxpData && len(p) == 4+int(binary.BigEndian.Uint32(p)) {
		if err := w.send(p); err != nil { // content goes on without a copy
			return 0, err
		}
		return len(p), nil
	}
	w.out = append(w.out, p...)
	for len(w.out) >= 5 {
		n := 4 + int(binary.BigEndian.Uint32(w.out))
		if len(w.out) < n {
			break
		}
		packet, err := amend(w.out[:n:n])
		if err != nil {
			w.fail(err)
			return 0, err
		}
		setLength(packet)
		if packet[4] == fxpHandle {
			w.v.open.name(packet[5:]) // first, since the client may use it at once
		}
		if err := w.send(packet); err != nil {
			return 0, err
		}
		w.out = append(w.out[:0], w.out[n:]...)
	}
	return len(p), nil
}

func setLength(packet []byte) { binary.BigEndian.PutUint32(packet, uint32(len(packet)-4)) }

// send writes one packet and makes room for another request.
func (w *wire) send(packet []byte) error { return w.sendAfter(packet, nil) }

// sendAfter is send that calls first, unless that is nil, right before the client can have the packet:
// what its next request shall find must not be left to the time after.
func (w *wire) sendAfter(packet []byte, first func()) error {
	if err := w.write(packet, first); err != nil {
		w.fail(err)
		return err
	}
	w.mu.Lock()
	w.pending--
	w.mu.Unlock()
	w.answer.Signal()
	return nil
}

func (w *wire) write(packet []byte, first func()) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.ended(); err != nil { // while this packet waited for its turn
		return err
	}
	if first != nil {
		first()
	}
	_, err := w.ch.Write(packet)
	return err
}

// ended returns the error after which nothing is written any more.
func (w *wire) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fail ends reading and writing. RequestServer goes on after a failed write, so it must learn
// from its next read.
func (w *wire) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.answer.Broadcast()
}

// Close ends the channel and wakes a reader that waits for an answer.
func (w *wire) Close() error {
	w.fail(io.EOF)
	return w.ch.Close()
}

// amend changes a reply of RequestServer where that is needed. Its length is left to the caller.
func amend(packet []byte) ([]byte, error) {
	d := decoder{b: packet, at: 5}
	switch packet[4] {
	case fxpVersion:
		return appendString(appendString(packet, limitsExtension), "1"), nil
	case fxpAttrs:
		d.u32() // id
		out := appendAttrs(append([]byte(nil), packet[:d.at]...), &d)
		return out, d.err()
	case fxpName:
		d.u32() // id
		count := d.u32()
		out := append(make([]byte, 0, len(packet)), packet[:min(d.at, len(packet))]...)
		for range count {
			if d.bad {
				break
			}
			name, long := d.str(), d.str()
			out = appendAttrs(appendString(appendString(out, name), long), &d)
		}
		return out, d.err()
	}
	return packet, nil
}

// appendAttrs copies attributes and moves the access time from its mark to its place.
func appendAttrs(out []byte, d *decoder) []byte {
	flags := d.u32()
	start := len(out)
	out = binary.BigEndian.AppendUint32(out, flags&^attrExtended)
	words := 0
	for flag, n := range map[uint32]int{attrSize: 2, attrOwner: 2, attrPermissions: 1, attrTimes: 2} {
		if flags&flag != 0 {
			words += n
		}
	}
	out = append(out, d.bytes(4*words)...)
	if flags&attrExtended == 0 {
		return out
	}
	for range d.u32() {
		name, value := d.str(), d.str()
		if d.bad {
			break
		}
		if string(name) == atimeMark && len(value) == 4 && flags&attrTimes != 0 {
			copy(out[start+4*words-4:], value) // the word before the last one
		}
	}
	return out
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// decoder reads a packet's fields; after the first that is not there, bad is set and all are empty.
type decoder struct {
	b   []byte
	at  int
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b)-d.at {
		d.bad = true
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) u32() uint32 {
	b := d.bytes(4)
	if d.bad {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (d *decoder) u64() uint64 {
	b := d.bytes(8)
	if d.bad {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (d *decoder) str() []byte { return d.bytes(int(d.u32())) }

func (d *decoder) err() error {
	if d.bad {
		return errWire
	}
	return nil
}
