// Package audit records who read what: one line of JSON for each login, refusal, listing, read
// file, archive and program run, for whoever must prove later what left the backups.
//
//	front ends ── events ── queue ── one goroutine ── log/slog's JSON ── file
//
// Non-goals: it is no operational log (errors of disks, starts and stops are elsewhere), it
// rotates nothing and decides nothing about access. Invariants: an event costs its caller no
// I/O; no event is lost while the file can be written, so a caller waits when queueSize events
// do; memory is bounded; every path can be turned back into the bytes it had (see Escape).
package audit

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// queueSize is how many events may wait for the file: about 512 bytes each, 2 MiB in all.
	queueSize = 4096
	// pause is how long the writer lets events gather after it has written those there were: waking
	// it and writing for each of many small files would cost more than their lines.
	pause = 50 * time.Millisecond
)

// Who is the client that an event is about.
type Who struct {
	Session string // of one connection or login, see NewSession
	Via     string // the protocol: "ssh", "https"
	User    string // as the client gave it
	Key     string // fingerprint of an SSH key, "SHA256:..."; empty where there is none
	Address string // host and port
}

// NewSession returns a random name for a session, 16 hexadecimal digits.
func NewSession() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Log takes events. A nil *Log records nothing; all methods are safe for concurrent use. After
// Close events are dropped.
type Log struct {
	events  chan event
	closing chan struct{} // closed with events
	done    chan struct{} // closed when the writer has ended

	sending sync.RWMutex // held for reading while an event is queued
	closed  bool

	mu  sync.Mutex
	err error // of the last write
}

type event struct {
	time  time.Time
	name  string
	who   Who
	attrs []slog.Attr
}

// New returns a Log that writes to w from a goroutine of its own until Close.
func New(w io.Writer) *Log {
	return start(w, func() error { return nil })
}

func start(w io.Writer, end func() error) *Log {
	l := &Log{events: make(chan event, queueSize), closing: make(chan struct{}), done: make(chan struct{})}
	go l.write(w, end)
	return l
}

// Open returns a Log that appends to the file path, made with mode 0600 where it is missing; "-"
// is standard output.
func Open(path string) (*Log, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	return To(f), nil
}

// To returns a Log that writes to a file of OpenFile and closes it.
func To(f *os.File) *Log { return start(f, func() error { return CloseFile(f) }) }

// OpenFile opens the file of a Log, which may be in another process.
func OpenFile(path string) (*os.File, error) {
	if path == "-" {
		return os.Stdout, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return f, nil
}

// CloseFile closes a file of OpenFile when its last line is on the disk.
func CloseFile(f *os.File) error {
	if f == os.Stdout {
		return nil
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close writes what is queued and returns the error of the last write, if it failed.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.sending.Lock()
	if !l.closed {
		l.closed = true
		close(l.events)
		close(l.closing)
	}
	l.sending.Unlock()
	<-l.done
	return l.Err()
}

// Err tells that the last write failed, so that a front end can refuse new logins while nothing
// can be recorded.
func (l *Log) Err() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Login records that a client has proven who it is. An error means that events cannot be
// written; the client should be sent away.
func (l *Log) Login(w Who) error {
	if l == nil {
		return nil
	}
	l.send("login", w)
	return l.Err()
}

// Logout records the end of a session.
func (l *Log) Logout(w Who, took time.Duration) { l.send("logout", w, seconds(took)) }

// Refused records what a client was refused: a login, a command, a write.
func (l *Log) Refused(w Who, what, why string) {
	l.send("refused", w, slog.String("what", Escape(what)), slog.String("why", Escape(why)))
}

// List records that a folder was listed: how many entries were sent, and the error that ended
// it, if any.
func (l *Log) List(w Who, path string, entries int64, err error) {
	l.send("list", w, slog.String("path", Escape(path)), slog.Int64("entries", entries), failure(err))
}

// Archive is a stream of many files.
type Archive struct {
	Paths    []string // what was asked for
	Format   string   // "zip", "tar", "tar.zst", "scp"
	Files    int64
	Bytes    int64 // sent
	Duration time.Duration
	Err      error // nil: complete
}

// Archive records a finished archive.
func (l *Log) Archive(w Who, a Archive) {
	l.send("archive", w, slog.Any("paths", escapeAll(a.Paths)), slog.String("format", a.Format),
		slog.Int64("files", a.Files), slog.Int64("bytes", a.Bytes), seconds(a.Duration), failure(a.Err))
}

// Run is a program that ran for a client.
type Run struct {
	Args     []string // with the program's name
	Sent     int64    // bytes from the program to the client
	Received int64    // bytes from the client to the program
	Exit     int      // status; -1: killed
	Duration time.Duration
}

// Run records a program that has ended.
func (l *Log) Run(w Who, r Run) {
	l.send("run", w, slog.Any("args", escapeAll(r.Args)), slog.Int64("bytes", r.Sent),
		slog.Int64("received", r.Received), slog.Int("exit", r.Exit), seconds(r.Duration))
}

// Query records what else a client asked: a search, a checksum, a comparison.
func (l *Log) Query(w Who, what string, paths []string, took time.Duration, err error) {
	l.send("query", w, slog.String("what", Escape(what)), slog.Any("paths", escapeAll(paths)), seconds(took), failure(err))
}

func seconds(d time.Duration) slog.Attr {
	return slog.Float64("seconds", float64(d.Microseconds())/1e6)
}

// failure is left out of the line when err is nil.
func failure(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.String("error", Escape(err.Error()))
}

func (l *Log) send(name string, w Who, attrs ...slog.Attr) {
	if l == nil {
		return
	}
	l.sending.RLock()
	defer l.sending.RUnlock()
	if !l.closed {
		l.events <- event{time.Now(), name, w, attrs}
	}
}

// write owns the file. It flushes whenever nothing is queued, and then pauses; while writing fails it
// flushes each line.
func (l *Log) write(w io.Writer, end func() error) {
	defer close(l.done)
	b := bufio.NewWriterSize(w, 64<<10)
	h := slog.NewJSONHandler(b, &slog.HandlerOptions{ReplaceAttr: noLevel})
	var who Who // whom of says in each line
	var of slog.Handler
	for e := range l.events {
		if of == nil || e.who != who {
			who, of = e.who, h.WithAttrs(e.who.attrs())
		}
		r := slog.NewRecord(e.time.UTC(), slog.LevelInfo, e.name, 0)
		r.AddAttrs(e.attrs...)
		err := of.Handle(context.Background(), r)
		// After a failure at once, so that a busy server learns soon when it is over.
		flush := len(l.events) == 0 || l.Err() != nil
		if err == nil && flush {
			err = b.Flush()
		}
		if err != nil {
			b.Reset(w) // else the writer would repeat its first error for ever
		}
		if err != nil || flush {
			l.result(err)
		}
		if len(l.events) == 0 {
			select {
			case <-time.After(pause):
			case <-l.closing:
			}
		}
	}
	l.result(errors.Join(b.Flush(), end()))
}

// attrs are what every line says of a client.
func (w Who) attrs() []slog.Attr {
	out := []slog.Attr{slog.String("session", w.Session), slog.String("via", w.Via), slog.String("user", Escape(w.User))}
	if w.Key != "" {
		out = append(out, slog.String("key", w.Key))
	}
	return append(out, slog.String("address", w.Address))
}

func (l *Log) result(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = err; err != nil {
		l.err = fmt.Errorf("the audit log cannot be written: %w", err)
	}
}

// noLevel leaves out the level, which says nothing here, and calls the message "event".
func noLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		return slog.Attr{}
	case slog.MessageKey:
		a.Key = "event"
	}
	return a
}
