package sshd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/sshd/shellwords"
)

// The old scp protocol, as OpenSSH's scp -O speaks it to `scp -f`, the source. Nothing but the
// programs themselves describes it:
//
//	T<mtime> 0 <atime> 0\n     with -p, before each of the next two
//	C<mode> <size> <name>\n    a file; then its bytes, then \0
//	D<mode> 0 <name>\n         with -r, a folder; then what is in it, then E\n
//	\1<message>\n              something went wrong, the copy goes on; \2: it ends
//
// The client answers each with \0, or with \1 or \2 and a message.

// scpBuffer is the size of the reads of files.
const scpBuffer = 256 << 10

// source is one run of `scp -f`.
type source struct {
	ctx context.Context // of the session
	s   *server
	c   *conn
	in  *bufio.Reader
	ch  io.Writer

	recursive, times bool
	buf              []byte
	open             []tree.Node // the folders that are being sent, against links in a circle
	failed           bool        // a message was sent
}

// errClient ends the run: the client said so, or is gone.
var errClient = errors.New("scp: the client ended the copy")

// serveSCP runs the source for a command line.
func (s *server) serveSCP(ctx context.Context, c *conn, ch gossh.Channel, line string) uint32 {
	words, err := shellwords.Split(line, s.lister(ctx))
	if err != nil {
		return s.say(c, ch, line, fmt.Errorf("scp: %w", err))
	}
	src := &source{ctx: ctx, s: s, c: c, in: bufio.NewReader(ch), ch: ch}
	paths, err := src.arguments(words[1:])
	if errors.Is(err, errSink) { // a client shows this message alone
		s.cfg.Counters.Count(tree.OpRefused)
		s.cfg.Audit.Refused(c.who, "exec "+shorten(line), err.Error())
		_, _ = fmt.Fprintf(ch, "\x02%s\n", err)
		return 1
	}
	if err != nil {
		return s.say(c, ch, line, err)
	}
	c.files.Add(1)
	defer func() { c.files.Add(-1) }()
	src.buf = make([]byte, scpBuffer)
	if src.ack() != nil {
		return 1
	}
	for _, p := range paths {
		if src.send(p) != nil {
			return 1
		}
	}
	if src.failed {
		return 1
	}
	return 0
}

var errSink = errors.New("scp: backups are read-only: files can be copied from here, not to here")

// arguments understands the options that OpenSSH's client sends.
func (x *source) arguments(words []string) (paths []string, err error) {
	from, to := false, false
	for i, w := range words {
		if w == "--" || !strings.HasPrefix(w, "-") || w == "-" {
			if w == "--" {
				i++
			}
			paths = words[i:]
			break
		}
		for _, c := range w[1:] {
			switch c {
			case 'f':
				from = true
			case 't':
				to = true
			case 'r':
				x.recursive = true
			case 'p':
				x.times = true
			case 'v', 'd', 'q':
			default:
				return nil, fmt.Errorf("scp: the option -%c is not expected; leave out -O, or use sftp", c)
			}
		}
	}
	switch {
	case to:
		return nil, errSink
	case !from:
		return nil, errors.New("scp: run it on your side, as in: scp -O user@host:/path FOLDER")
	case len(paths) == 0:
		return nil, errors.New("scp: no path is given")
	}
	return paths, nil
}

// ack waits for the client's answer. A warning of the client, about one file, is errSkip.
func (x *source) ack() error {
	b, err := x.in.ReadByte()
	switch {
	case err != nil:
		return errClient
	case b == 0:
		return nil
	}
	// The message is the client's own and it has shown it; it ends in a line break.
	for range 4096 {
		if c, err := x.in.ReadByte(); err != nil {
			return errClient
		} else if c == '\n' {
			break
		}
	}
	if b == 1 {
		x.failed = true
		return errSkip
	}
	return errClient
}

var errSkip = errors.New("scp: the client skips this file")

// warn tells the client what it does not get.
func (x *source) warn(p string, why error) error {
	x.failed = true
	if _, err := fmt.Fprintf(x.ch, "\x01scp: %s: %s\n", audit.Escape(p), audit.Escape(why.Error())); err != nil {
		return errClient
	}
	return nil
}

// fail is warn with the tree's advice.
func (x *source) fail(p string, err error) error {
	return x.warn(p, fmt.Errorf("%w. %s", err, tree.KindOf(err).Advice()))
}

// send sends what p leads to. An error ends the run.
func (x *source) send(p string) error {
	o, err := x.s.find(x.ctx, p, true)
	if err != nil {
		return x.fail(p, err)
	}
	a, err := x.s.attr(o)
	if err != nil {
		return x.fail(p, err)
	}
	name := path.Base(path.Clean("/" + p))
	if name == "/" {
		name = "vmfr" // the root has no name, and a folder needs one
	}
	switch {
	case strings.ContainsAny(name, "\n"):
		return x.warn(p, errors.New("its name holds a line break, which this protocol cannot carry; use sftp, or scp without -O"))
	case a.IsDir():
		return x.folder(p, name, o.Node, a)
	case a.IsRegular():
		return x.file(p, name, o, a)
	}
	return x.fail(p, fsys.ErrNotRegular)
}

// control sends a message and waits for its answer.
func (x *source) control(format string, args ...any) error {
	if _, err := fmt.Fprintf(x.ch, format, args...); err != nil {
		return errClient
	}
	return x.ack()
}

// stamp sends the times that -p asks for. The protocol has no times before 1970.
func (x *source) stamp(a fsys.Attr) error {
	if !x.times {
		return nil
	}
	return x.control("T%d 0 %d 0\n", max(a.Mtime.Unix(), 0), max(a.Atime.Unix(), 0))
}

// skipped turns the client's refusal of one object into nil.
func skipped(err error) error {
	if errors.Is(err, errSkip) {
		return nil
	}
	return err
}

func (x *source) folder(p, name string, n tree.Node, a fsys.Attr) error {
	if !x.recursive {
		return x.warn(p, errors.New("it is a folder; use scp -r"))
	}
	for _, o := range x.open {
		if o == n {
			return x.fail(p, tree.ErrLoop)
		}
	}
	if err := x.stamp(a); err != nil {
		return skipped(err)
	}
	if err := x.control("D%04o 0 %s\n", a.Mode&0o7777, name); err != nil {
		return skipped(err)
	}
	x.open = append(x.open, n)
	err := x.entries(p, n)
	x.open = x.open[:len(x.open)-1]
	if err != nil {
		return err
	}
	return skipped(x.control("E\n"))
}

// entries sends what is in a folder. Their number and their depth are the guest's: paths are at most
// tree.MaxPath long.
func (x *source) entries(p string, n tree.Node) (end error) {
	ents := make([]fsys.Dirent, 64)
	listed := int64(0)
	var failed error
	defer func() { x.s.cfg.Audit.List(x.c.who, p, listed, failed) }()
	for from := fsys.Cookie(0); ; {
		k, err := x.s.readDir(x.ctx, n, from, ents)
		for _, e := range ents[:k] {
			from = e.Next
			listed++
			if err := x.send(strings.TrimSuffix(p, "/") + "/" + e.Name); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF || err == nil && k == 0:
			return nil
		case err != nil:
			failed = err
			return x.fail(p, err)
		}
	}
}

func (x *source) file(p, name string, o object, a fsys.Attr) error {
	f, err := x.s.open(o)
	if err != nil {
		return x.fail(p, err)
	}
	if err := x.stamp(a); err != nil {
		return skipped(err)
	}
	if err := x.control("C%04o %d %s\n", a.Mode&0o7777, f.Size(), name); err != nil {
		return skipped(err)
	}
	record := x.s.cfg.Audit.Open(x.c.who, p, f.Size())
	defer record.Close()
	var failed error
	for off := int64(0); off < f.Size(); {
		b := x.buf[:min(int64(len(x.buf)), f.Size()-off)]
		if failed == nil {
			k, err := f.ReadAt(b, off)
			x.s.cfg.Counters.Read(k)
			if k < len(b) {
				if failed = err; err == nil || err == io.EOF {
					failed = io.ErrUnexpectedEOF
				}
				clear(b[k:])
			}
			record.Read(off, k, failed)
		} else {
			clear(b) // the size was promised; the message after it says that the file is bad
		}
		if _, err := x.ch.Write(b); err != nil {
			return errClient
		}
		off += int64(len(b))
	}
	if failed != nil {
		if err := x.fail(p, failed); err != nil {
			return err
		}
	} else if _, err := x.ch.Write([]byte{0}); err != nil {
		return errClient
	}
	return skipped(x.ack())
}
