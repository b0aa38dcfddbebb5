package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/sshd/rsyncargs"
)

const (
	// startLimit is how long the starter may take to be ready.
	startLimit = 10 * time.Second
	// stopLimit is how long it may take to end before it is killed.
	stopLimit = 2 * time.Second
	// pipeSize is the most that a run has written and its client has not taken yet, in bytes.
	pipeSize = 256 << 10
)

// Jail is a running starter.
type Jail struct {
	cmd    *exec.Cmd     // nil: another process's
	ended  chan struct{} // the starter has
	mu     sync.Mutex
	sock   *os.File
	device *os.File
}

// Start starts the starter for program, an absolute path or a name in PATH. The current program
// must call Main when its first argument is Command. It is to be called before a FUSE mount is
// served by this process. Errors are ErrUnavailable with the reason.
func Start(program string) (*Jail, error) { return StartBy((*exec.Cmd).Start, program) }

// StartBy is Start for a process that starts others in a way of its own.
func StartBy(begin func(*exec.Cmd) error, program string) (*Jail, error) {
	j, err := start(begin, program)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return j, nil
}

func start(begin func(*exec.Cmd) error, program string) (*Jail, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("the program is missing, install the package rsync: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("its jail needs root: namespaces with all user ids, and a FUSE mount")
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"vmfr-jail", Command, "starter", path}, ExtraFiles: []*os.File{theirs},
		Env: []string{"GOMAXPROCS=2"}, Dir: "/",
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
			Setsid:     true, // a terminal's Ctrl-C is for the server, which ends in order
		},
	}
	if err := begin(cmd); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("this process may not make namespaces (CAP_SYS_ADMIN): %w", err)
	}
	j := &Jail{cmd: cmd, sock: ours, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(j.ended) }()
	limit := time.AfterFunc(startLimit, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	_ = theirs.Close() // so that the starter's end is noticed
	err = j.greet()
	if err != nil {
		_ = j.Close()
		return nil, err
	}
	return j, nil
}

// greet waits for the starter's hello.
func (j *Jail) greet() error {
	message, files, err := receive(j.sock, 4096, 1)
	if err != nil {
		return fmt.Errorf("its starter did not come up: %w", err)
	}
	var h hello
	if err := json.Unmarshal(message, &h); err != nil {
		closeAll(files)
		return fmt.Errorf("its starter: %w", err)
	}
	if h.Error != "" {
		closeAll(files)
		return errors.New(h.Error)
	}
	j.device = files[0]
	return nil
}

// Device is the /dev/fuse whose requests somebody must answer before Run, see fusefs.Serve, which
// takes it over.
func (j *Jail) Device() *os.File { return j.device }

// Files are the starter's socket and its /dev/fuse, to be sent to another process, which makes a
// Jail of them with Adopt. They stay j's.
func (j *Jail) Files() (socket, device *os.File) { return j.sock, j.device }

// PID is the starter's, of which the runs are children.
func (j *Jail) PID() int { return j.cmd.Process.Pid }

// Detach closes j's files without ending the starter: it ends with the process that adopted it.
func (j *Jail) Detach() error { return errors.Join(j.sock.Close(), j.device.Close()) }

// Adopt takes a jail over that another process started.
func Adopt(socket, device *os.File) *Jail {
	j := &Jail{sock: socket, device: device, ended: make(chan struct{})}
	go func() {
		defer close(j.ended)
		_ = control(socket, func(fd int) error {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, -1)
			return err
		})
	}()
	return j
}

// Done is closed when the starter has ended: after Close, or because it was killed.
func (j *Jail) Done() <-chan struct{} { return j.ended }

// Close ends all runs and the starter; the FUSE mount goes with it.
func (j *Jail) Close() error {
	j.mu.Lock()
	if j.cmd == nil { // wakes Adopt's poll, and the starter sees its socket closed
		_ = control(j.sock, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	}
	_ = j.sock.Close()
	j.mu.Unlock()
	if j.cmd == nil {
		<-j.ended
		return nil
	}
	select {
	case <-j.ended:
	case <-time.After(stopLimit):
		_ = j.cmd.Process.Kill()
		<-j.ended
	}
	return nil
}

// Run runs rsync with args, the first being its name, until it ends or ctx does, and returns its
// exit status, -1 if it was killed. It does not wait for a Read of stdin that is under way. An
// error means that rsync was not run.
func (j *Jail) Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if _, err := rsyncargs.Parse(args); err != nil {
		return -1, err
	}
	r, err := j.request(args)
	if err != nil {
		return -1, err
	}
	defer r.ctl.Close()
	// The other end takes this for the order to kill.
	kill := context.AfterFunc(ctx, func() {
		_ = control(r.ctl, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	})
	defer kill()
	go func() {
		_, _ = io.CopyBuffer(plainWriter{r.stdin}, plainReader{stdin}, make([]byte, 32<<10))
		_ = r.stdin.Close()
	}()
	var wg sync.WaitGroup
	for _, c := range []struct {
		to   io.Writer
		from *os.File
	}{{stdout, r.stdout}, {stderr, r.stderr}} {
		wg.Go(func() {
			_, _ = io.CopyBuffer(plainWriter{c.to}, plainReader{c.from}, make([]byte, 64<<10))
			_ = c.from.Close() // a client that is gone is a broken pipe for rsync
		})
	}
	wg.Wait()
	message, _, err := receive(r.ctl, 4096, 0)
	_ = r.stdin.Close()
	if err != nil { // the starter was killed, or ctx ended
		return -1, nil
	}
	var res result
	if err := json.Unmarshal(message, &res); err != nil {
		return -1, fmt.Errorf("rsync: %w", err)
	}
	if res.Error != "" {
		return -1, errors.New(res.Error)
	}
	return res.Exit, nil
}

// Look tells whether the tree can be read through the jail's mount. It waits for the answer until
// ctx ends; an error means that rsync would not work either.
func (j *Jail) Look(ctx context.Context) error {
	r, err := j.request([]string{lookRequest})
	if err != nil {
		return err
	}
	closeAll([]*os.File{r.stdin, r.stdout, r.stderr})
	defer r.ctl.Close()
	end := context.AfterFunc(ctx, func() {
		_ = control(r.ctl, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	})
	defer end()
	message, _, err := receive(r.ctl, 4096, 0)
	if ctx.Err() != nil {
		return fmt.Errorf("the jail's mount does not answer: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("the jail's starter does not answer: %w", err)
	}
	var res result
	if err := json.Unmarshal(message, &res); err != nil {
		return fmt.Errorf("the jail's starter: %w", err)
	}
	if res.Error != "" {
		return errors.New(res.Error)
	}
	return nil
}

// plainReader and plainWriter hide what would let io.Copy take a way of its own.
type (
	plainReader struct{ io.Reader }
	plainWriter struct{ io.Writer }
)

// run is our side of a request.
type run struct{ stdin, stdout, stderr, ctl *os.File }

// request asks the starter for a run.
func (j *Jail) request(args []string) (r run, err error) {
	var opened, theirs []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			closeAll(opened)
		}
	}()
	pipe := func() (in, out *os.File, err error) {
		in, out, err = os.Pipe()
		if err == nil {
			// Not permitted beyond the user's share of pipe memory; smaller is only slower.
			_ = control(out, func(fd int) error {
				_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
				return err
			})
		}
		return in, out, err
	}
	in, stdin, err := pipe()
	if err != nil {
		return r, fmt.Errorf("rsync: %w", err)
	}
	theirs, opened = append(theirs, in), append(opened, stdin)
	stdout, out, err := pipe()
	if err != nil {
		return r, fmt.Errorf("rsync: %w", err)
	}
	theirs, opened = append(theirs, out), append(opened, stdout)
	stderr, errs, err := pipe()
	if err != nil {
		return r, fmt.Errorf("rsync: %w", err)
	}
	theirs, opened = append(theirs, errs), append(opened, stderr)
	ctl, far, err := pair()
	if err != nil {
		return r, fmt.Errorf("rsync: %w", err)
	}
	theirs, opened = append(theirs, far), append(opened, ctl)
	j.mu.Lock()
	defer j.mu.Unlock()
	err = send(j.sock, []byte(strings.Join(args, "\x00")), int(in.Fd()), int(out.Fd()), int(errs.Fd()), int(far.Fd())) // Fd makes them blocking, as a program expects
	if err != nil {
		return r, fmt.Errorf("rsync cannot be started any more: start the server again: %w", err)
	}
	return run{stdin, stdout, stderr, ctl}, nil
}
