// Package spawn starts the processes that end with this one: workers in a sandbox (agent/sandbox),
// each with a socket pair for messages (agent/session) and a pipe for its log, and others. The node's
// supervisor and serve share it.
//
// Non-goals: it knows no message and restarts nothing. Invariant: a worker ends with the Spawner's
// process, however that ends.
package spawn

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"vmfr/agent/session"
)

// Spawner starts processes from one thread that lives as long as it: the kernel ends a worker with
// the thread that started it (PR_SET_PDEATHSIG), not with the process. That thread has none of this
// process's descriptors.
type Spawner struct {
	todo chan func()
	mu   sync.Mutex // of one start at a time
	pipe pipe
	err  error // why there is none
}

// New starts the thread. Where that cannot have a table of its own, Start says why.
func New() *Spawner {
	s := &Spawner{todo: make(chan func())}
	// Package os starts a process, once, to see whether the kernel has pidfds; now it has copies of
	// nothing that was handed over.
	_, _ = os.FindProcess(os.Getpid())
	began := make(chan struct{})
	go s.run(began)
	<-began
	if s.pipe.in > 0 { // that is the thread's
		_ = unix.Close(s.pipe.in)
	}
	return s
}

// run is the thread.
func (s *Spawner) run(began chan<- struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // the process's first thread: let another one do it
		other := make(chan struct{})
		go s.run(other)
		<-other
		runtime.UnlockOSThread()
		close(began)
		return
	}
	s.pipe, s.err = ownTable()
	close(began)
	for f := range s.todo {
		f()
	}
}

// Close ends the thread, when no worker is left.
func (s *Spawner) Close() {
	close(s.todo)
	if s.pipe.out > 0 {
		_ = unix.Close(s.pipe.out)
	}
}

// Start starts cmd, whose streams must be files, from the thread.
func (s *Spawner) Start(cmd *exec.Cmd) error {
	if s.err != nil {
		return s.err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	files, err := filesOf(cmd, null)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pipe.send(files); err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	var pid int
	done := make(chan error)
	s.todo <- func() {
		var err error
		pid, err = s.pipe.fork(cmd)
		done <- err
	}
	if err := <-done; err != nil {
		return err
	}
	cmd.Process, err = os.FindProcess(pid) // which nobody else waits for
	return err
}

// Worker is a started process. Conn and Log are the caller's to close; Log ends with the process.
type Worker struct {
	Conn *session.Conn
	Log  *os.File // what it writes to standard error
	cmd  *exec.Cmd
}

// Worker starts a worker. prepare makes its command, of which theirs, the other end of Conn, is
// descriptor 3; see sandbox.New.
func (s *Spawner) Worker(prepare func(theirs *os.File) (*exec.Cmd, error)) (_ *Worker, err error) {
	w := &Worker{}
	var theirs, errs *os.File
	defer func() {
		for _, f := range []*os.File{theirs, errs} {
			if f != nil {
				_ = f.Close()
			}
		}
		if err != nil && w.Conn != nil {
			_ = w.Conn.Close()
		}
		if err != nil && w.Log != nil {
			_ = w.Log.Close()
		}
	}()
	if w.Conn, theirs, err = session.Pair(); err != nil {
		return nil, err
	}
	if w.Log, errs, err = os.Pipe(); err != nil {
		return nil, err
	}
	if w.cmd, err = prepare(theirs); err != nil {
		return nil, err
	}
	w.cmd.Stderr = errs
	if err = s.Start(w.cmd); err != nil {
		return nil, fmt.Errorf("the sandbox: %w", err)
	}
	return w, nil
}

// Process is the operating system's.
func (w *Worker) Process() *os.Process { return w.cmd.Process }

// Wait waits for the end of the process; an error tells how it ended if not with exit status 0.
func (w *Worker) Wait() error { return w.cmd.Wait() }

// maxLine bounds a line of a worker's log, in bytes.
const maxLine = 4 << 10

// Lines calls each with the lines of a worker's log, without their ends, until it ends. Longer ones
// are cut into several: they are the words of a process that may be hostile.
func Lines(log io.Reader, each func(line string)) {
	r := bufio.NewReaderSize(log, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			each(strings.TrimRight(string(line), "\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
