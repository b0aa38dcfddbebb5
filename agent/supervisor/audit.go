package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// auditBuffer is how many bytes of lines may wait for the file; who has more to say waits.
	auditBuffer = 4 << 20
	// auditStall is how long a line waits for room before it is given up: a file that cannot be
	// written must not end the service. From then on lines are given up at once until one is
	// written again.
	auditStall = 5 * time.Second
	// auditCheck is the least time between two looks whether the file was renamed or removed.
	auditCheck = time.Second
	// auditClose bounds the wait for the last lines.
	auditClose = 2 * time.Second
	// stdout is the path that means standard output.
	stdout = "-"
)

// AuditLog joins the audit lines of all sessions in one file. It may be renamed or removed at any
// time, as log rotation does: a new one is made within a second of the next line.
//
// While the file cannot be written, sessions go on and lines are lost; each is counted, and a
// line of the file tells how many when it can be written again. A nil *AuditLog keeps nothing.
type AuditLog struct {
	path string
	node string
	log  *slog.Logger
	file *os.File // the writer's alone
	torn bool     // what was written last is no whole line
	last time.Time

	written, lost, refused atomic.Uint64

	mu      sync.Mutex
	waiting []byte        // whole lines
	room    chan struct{} // closed when waiting is taken
	failing bool
	closed  bool
	untold  uint64 // lost, and not yet told in the file
	wake    chan struct{}
	done    chan struct{}
}

// OpenAuditLog appends to the file path, made with mode 0600 where it is missing; "-" is standard
// output. node is this node's name, for every line.
func OpenAuditLog(path, node string, log *slog.Logger) (*AuditLog, error) {
	a := &AuditLog{path: path, node: node, log: log, room: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{})}
	var err error
	if path == stdout {
		// A descriptor of our own: the Go runtime ends a program that writes to a standard output
		// which nobody reads any more.
		var fd int
		if fd, err = unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			a.file = os.NewFile(uintptr(fd), "standard output")
		}
	} else {
		a.file, err = openAuditFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("--audit-log: %w", err)
	}
	go a.run()
	return a, nil
}

func openAuditFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// auditLine is one line of the file. What a worker said is Record and nothing else, so it cannot
// speak for another session.
type auditLine struct {
	Received  time.Time       `json:"received"`
	Node      string          `json:"node,omitempty"`
	Session   string          `json:"session,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Name      string          `json:"name,omitempty"`
	Record    json.RawMessage `json:"record,omitempty"`
	// Refused tells why there is no Record: the worker's words were none.
	Refused string `json:"refused,omitempty"`
	// Lost is how many lines could not be written before this one.
	Lost uint64 `json:"lost,omitempty"`
}

func (a *AuditLog) encode(l auditLine) []byte {
	l.Received, l.Node = time.Now().UTC(), a.node
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as the worker wrote it
	if err := e.Encode(l); err != nil {
		panic(err) // a record was checked to be JSON
	}
	return b.Bytes()
}

// put hands a line over. It waits while the file is slow, at most auditStall.
func (a *AuditLog) put(l auditLine) {
	line := a.encode(l)
	var stall <-chan time.Time
	for {
		a.mu.Lock()
		switch {
		case a.closed, len(line) > auditBuffer:
			a.giveUp(1)
			a.mu.Unlock()
			return
		case len(a.waiting)+len(line) <= auditBuffer:
			a.waiting = append(a.waiting, line...)
			a.mu.Unlock()
			select {
			case a.wake <- struct{}{}:
			default:
			}
			return
		case a.failing:
			a.giveUp(1)
			a.mu.Unlock()
			return
		}
		room := a.room
		a.mu.Unlock()
		if stall == nil {
			t := time.NewTimer(auditStall)
			defer t.Stop()
			stall = t.C
		}
		select {
		case <-room:
		case <-stall:
			a.fail(errors.New("it takes no more bytes"), 0)
		}
	}
}

// giveUp counts lines that are lost. It is called with the lock held.
func (a *AuditLog) giveUp(n uint64) {
	a.lost.Add(n)
	a.untold += n
}

// fail takes note that the file cannot be written, and of n lines that were lost by that.
func (a *AuditLog) fail(err error, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.failing {
		a.log.Error("the audit log cannot be written; sessions go on, and what is not recorded is counted", "file", a.path, "err", err)
	}
	a.failing = true
	a.giveUp(n)
}

// run writes what waits, all of it at once.
func (a *AuditLog) run() {
	defer close(a.done)
	var spare []byte
	for range a.wake {
		for {
			a.mu.Lock()
			b, closed := a.waiting, a.closed
			if len(b) > 0 {
				a.waiting = spare[:0]
				close(a.room)
				a.room = make(chan struct{})
			}
			a.mu.Unlock()
			if len(b) == 0 {
				if closed {
					return
				}
				break
			}
			a.write(b)
			spare = b
		}
	}
}

func (a *AuditLog) write(lines []byte) {
	a.reopen()
	if a.torn {
		if _, err := a.file.Write([]byte{'\n'}); err != nil {
			a.fail(err, uint64(bytes.Count(lines, []byte{'\n'})))
			return
		}
		a.torn = false
	}
	n, err := a.file.Write(lines)
	a.written.Add(uint64(bytes.Count(lines[:n], []byte{'\n'})))
	if err != nil {
		a.torn = n > 0 && lines[n-1] != '\n'
		a.fail(err, uint64(bytes.Count(lines[n:], []byte{'\n'})))
		return
	}
	a.mu.Lock()
	recovered, untold := a.failing, a.untold
	a.failing, a.untold = false, 0
	a.mu.Unlock()
	if recovered || untold > 0 {
		a.log.Warn("the audit log can be written again", "file", a.path, "linesLost", untold)
		if _, err := a.file.Write(a.encode(auditLine{Lost: untold})); err != nil {
			a.torn = true
			a.fail(err, 0)
			a.mu.Lock()
			a.untold += untold // they were counted when they were lost
			a.mu.Unlock()
		}
	}
}

// reopen follows the path when the file there is another one, or none.
func (a *AuditLog) reopen() {
	if a.path == stdout || time.Since(a.last) < auditCheck {
		return
	}
	a.last = time.Now()
	there, err := os.Stat(a.path)
	if err == nil {
		if have, err := a.file.Stat(); err == nil && os.SameFile(there, have) {
			return
		}
	}
	f, err := openAuditFile(a.path)
	if err != nil {
		a.log.Error("the audit log goes on in the file that was renamed or removed", "file", a.path, "err", err)
		return
	}
	_ = a.file.Close()
	a.file, a.torn = f, false
}

// Close writes what waits.
func (a *AuditLog) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
	select {
	case <-a.done:
	case <-time.After(auditClose):
		return fmt.Errorf("audit log: %s does not take its last lines", a.path)
	}
	var err error
	if err = a.file.Sync(); errors.Is(err, unix.EINVAL) { // a pipe or a terminal
		err = nil
	}
	if lost := a.lost.Load(); lost > 0 {
		err = errors.Join(err, fmt.Errorf("%d lines were lost", lost))
	}
	if err = errors.Join(err, a.file.Close()); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}
