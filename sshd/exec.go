package sshd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/sshd/rsyncargs"
	"vmfr/sshd/shellwords"
)

// command decides about a command line: what runs for it, or nil where it is neither scp nor
// rsync.
func (s *server) command(c *conn, ch gossh.Channel, line string) func(context.Context) uint32 {
	name, _, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	switch strings.Trim(name, `"'`) {
	case "scp", "/usr/bin/scp":
		return func(ctx context.Context) uint32 { return s.serveSCP(ctx, c, ch, line) }
	case "rsync", "/usr/bin/rsync":
		return func(ctx context.Context) uint32 { return s.serveRsync(ctx, c, ch, line) }
	}
	return nil
}

// say refuses a command with one line.
func (s *server) say(c *conn, ch gossh.Channel, line string, err error) uint32 {
	s.cfg.Counters.Count(tree.OpRefused)
	s.cfg.Audit.Refused(c.who, "exec "+shorten(line), err.Error())
	_, _ = fmt.Fprintf(ch.Stderr(), "%s\r\n", err)
	return 1
}

// lister is shellwords.List on the tree. Patterns are relative to the tree's root.
func (s *server) lister(ctx context.Context) shellwords.List {
	return func(dir string, yield func(name string) bool) error { return s.list(ctx, dir, yield) }
}

func (s *server) list(ctx context.Context, dir string, yield func(name string) bool) error {
	n, err := s.tree.ResolveContext(ctx, dir, true)
	if err != nil {
		return err
	}
	ents := make([]fsys.Dirent, 256)
	for from := fsys.Cookie(0); ; {
		k, err := s.readDir(ctx, n, from, ents)
		for _, e := range ents[:k] {
			if from = e.Next; !yield(e.Name) {
				return nil
			}
		}
		switch {
		case err == io.EOF || err == nil && k == 0:
			return nil
		case err != nil:
			return err
		}
	}
}

// serveRsync runs rsync for a command line in its jail.
func (s *server) serveRsync(ctx context.Context, c *conn, ch gossh.Channel, line string) uint32 {
	if s.cfg.Rsync == nil {
		return s.say(c, ch, line, errors.New("rsync is not offered by this server; use sftp, scp or sshfs (its log tells why)"))
	}
	stdin := bufio.NewReaderSize(ch, 32<<10)
	cmd, err := s.rsyncCommand(ctx, line, stdin)
	if err != nil {
		return s.say(c, ch, line, err)
	}
	began := time.Now()
	in, out := &countReader{Reader: stdin}, &countWriter{Writer: ch}
	c.files.Add(1) // a stopping server lets it go on for a while
	exit, err := s.cfg.Rsync.Run(ctx, cmd.Args(), in, out, ch.Stderr())
	c.lastFile.Store(time.Now().UnixNano())
	c.files.Add(-1)
	if err != nil {
		return s.say(c, ch, line, err)
	}
	s.cfg.Audit.Run(c.who, audit.Run{Args: cmd.Args(), Sent: out.n.Load(), Received: in.n.Load(), Exit: exit, Duration: time.Since(began)})
	if exit < 0 {
		_, _ = io.WriteString(ch.Stderr(), "rsync was ended by the server\r\n")
		return 20 // rsync's own for being interrupted
	}
	return uint32(exit)
}

// rsyncCommand checks a command line and what belongs to it on standard input.
func (s *server) rsyncCommand(ctx context.Context, line string, stdin *bufio.Reader) (cmd rsyncargs.Command, err error) {
	words, err := shellwords.Split(line, s.lister(ctx))
	if err != nil {
		return cmd, fmt.Errorf("rsync: %w", err)
	}
	cmd, err = rsyncargs.Parse(words)
	if !errors.Is(err, rsyncargs.ErrSecluded) {
		return cmd, err
	}
	more, err := readSecluded(stdin)
	if err != nil {
		return cmd, err
	}
	if cmd, err = rsyncargs.ParseSecluded(words, more); err != nil {
		return cmd, err
	}
	paths, err := shellwords.Expand(cmd.Paths, s.lister(ctx)) // as rsync itself does with them
	if err != nil {
		return cmd, fmt.Errorf("rsync: %w", err)
	}
	return cmd.With(paths)
}

// readSecluded reads arguments that each end in a zero byte, up to an empty one.
func readSecluded(r *bufio.Reader) (args []string, err error) {
	var arg []byte
	for size := 0; size <= rsyncargs.MaxBytes && len(args) <= rsyncargs.MaxArgs; size++ {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return nil, errors.New("rsync: the arguments on standard input are cut off")
		case b != 0:
			arg = append(arg, b)
		case len(arg) == 0:
			return args, nil
		default:
			args = append(args, string(arg))
			arg = arg[:0]
		}
	}
	return nil, errors.New("rsync: too many arguments on standard input")
}

// countReader and countWriter count what passes, for the audit log.
type countReader struct {
	io.Reader
	n atomic.Int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countWriter struct {
	io.Writer
	n atomic.Int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
