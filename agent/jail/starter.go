package jail

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
	"vmfr/fusefs"
	"vmfr/sshd/rsyncargs"
)

// Main is the program that Start starts: the starter, or what runs inside. It is to be called first
// of all when the program's first argument is Command, with the arguments after that, and returns
// an exit status.
func Main(args []string) int {
	if len(args) == 2 && args[0] == "starter" {
		return runStarter(args[1])
	}
	if len(args) > 1 && args[0] == "inside" {
		return inside(args[1], args[2:])
	}
	fmt.Fprintln(os.Stderr, "this command is for the program's own use")
	return 2
}

// starter is the process that starts the runs.
type starter struct {
	sock    *os.File
	base    string // a folder with "tree", the FUSE mount, and "root", the jail's root
	dir     string // of the program, seen from the jail's root
	program program
	slots   chan struct{}
	ahead   sync.Once
	looking atomic.Bool // somebody looks at the mount
}

func runStarter(path string) int {
	s := &starter{sock: os.NewFile(3, "socket"), slots: make(chan struct{}, MaxRuns)}
	err := mountns.OwnRoot() // before descriptor 3 is closed on exec: it may start this again
	unix.CloseOnExec(3)
	var dev *os.File
	if err == nil {
		dev, err = s.prepare(path)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		// The protocol wants a descriptor with every hello.
		_ = send(s.sock, encode(hello{Error: err.Error()}), 3)
		return 1
	}
	err = send(s.sock, encode(hello{}), int(dev.Fd()))
	_ = dev.Close() // else the mount would outlive the server
	if err != nil {
		return 1
	}
	for {
		message, files, err := receive(s.sock, rsyncargs.MaxBytes, requestFDs)
		if errors.Is(err, errClosed) {
			return 0 // and the kernel ends all that runs in this PID namespace
		}
		if err != nil {
			return 1
		}
		args := strings.Split(string(message), "\x00")
		// Here, since goroutines do not begin in the order of their requests: the first look is the one that
		// looks, and a later one is told so.
		looks := isLook(args) && s.looking.CompareAndSwap(false, true)
		go s.serve(args, files, looks)
	}
}

// places are folders to mount on, of which a system has at least one. What they hold is hidden in
// the starter's own mount namespace only.
var places = []string{"/run", "/tmp", "/mnt", "/var", "/srv"}

// prepare makes the starter's mounts and returns /dev/fuse.
func (s *starter) prepare(path string) (*os.File, error) {
	var err error
	if s.program, err = openProgram(path); err != nil { // before places hide it
		return nil, err
	}
	defer s.program.close()
	// Whoever unmounts a file system meanwhile would wait for its device until the server ends.
	if err := mountns.LeaveOthers(path); err != nil {
		return nil, err
	}
	for _, p := range places {
		if err = unix.Mount("vmfr", p, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,mode=0711"); err == nil {
			s.base = p
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	// Of this PID namespace, for the id maps of what is started.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	if err := s.makeRoot(); err != nil {
		return nil, fmt.Errorf("the jail's root: %w", err)
	}
	tree := filepath.Join(s.base, "tree")
	if err := os.Mkdir(tree, 0o711); err != nil {
		return nil, err
	}
	_, dev, err := fusefs.Attach(tree, fusefs.Options{AllowOther: true}) // the mount goes with this namespace
	return dev, err
}

// makeRoot makes the root that all runs share.
func (s *starter) makeRoot() error {
	root := filepath.Join(s.base, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		return err
	}
	if err := unix.Mount("vmfr", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711,size="+tmpfsSize); err != nil {
		return err
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	s.dir = "/.vmfr-" + hex.EncodeToString(random[:])
	if err := s.program.install(filepath.Join(root, s.dir)); err != nil {
		return err
	}
	for _, t := range append([]string{"/dev"}, rsyncargs.Tops...) {
		at := filepath.Join(root, t)
		if strings.Contains(t, ".") {
			if err := os.WriteFile(at, nil, 0o444); err != nil {
				return err
			}
		} else if err := os.Mkdir(at, 0o711); err != nil {
			return err
		}
	}
	null := filepath.Join(root, "dev/null")
	if err := os.WriteFile(null, nil, 0o444); err != nil {
		return err
	}
	if err := unix.Mount("/dev/null", null, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// command prepares a process in new namespaces that becomes the program, with the tree bound
// or, for a check before that is served, without.
func (s *starter) command(args []string, bind bool) *exec.Cmd {
	all := unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	// All ids but the last, which is no id.
	identity := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}
	settings := encode(insideSettings{Base: s.base, Bind: bind})
	return &exec.Cmd{
		Path: "/proc/self/exe", Dir: "/", Env: []string{"GOMAXPROCS=1"},
		Args: append([]string{"vmfr-jail", Command, "inside", string(settings)}, s.program.argv(s.dir, args)...),
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: uintptr(all), UidMappings: identity, GidMappings: identity, GidMappingsEnableSetgroups: true, Setsid: true,
		},
	}
}

// check runs rsync --version in the jail.
func (s *starter) check() error {
	out, err := s.command([]string{"rsync", "--version"}, false).CombinedOutput()
	if err != nil {
		text, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("a program cannot be started in a jail here: %w: %q", err, text)
	}
	return nil
}

func isLook(args []string) bool { return len(args) == 1 && args[0] == lookRequest }

// serve is one run, or a look at the mount, unless somebody else looks. It takes the files over.
func (s *starter) serve(args []string, files []*os.File, looks bool) {
	defer closeAll(files)
	ctl := files[fdControl]
	answer := func(r result) { _ = send(ctl, encode(r)) }
	if isLook(args) {
		r := result{}
		err := errLooking
		if looks {
			err = s.look()
		}
		if err != nil {
			r = result{Exit: -1, Error: err.Error()}
		}
		answer(r)
		return
	}
	// Checked by the server, too; it talks to strangers, and this process does not trust it.
	if _, err := rsyncargs.Parse(args); err != nil {
		answer(result{Exit: -1, Error: err.Error()})
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		answer(result{Exit: -1, Error: fmt.Sprintf("rsync: %d transfers are running; try again when one has ended", MaxRuns)})
		return
	}
	s.ahead.Do(s.readAhead)
	cmd := s.command(args, true)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[fdStdin], files[fdStdout], files[fdStderr]
	if err := cmd.Start(); err != nil {
		answer(result{Exit: -1, Error: "rsync cannot be started: " + err.Error()})
		return
	}
	closeAll(files[:fdControl]) // the run's own copies are left
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		killWhenClosed(ctl, cmd.Process, done)
	})
	err := cmd.Wait()
	close(done)
	watch.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		answer(result{Exit: -1, Error: "rsync: " + err.Error()})
		return
	}
	answer(result{Exit: cmd.ProcessState.ExitCode()})
}

// look uses the mount as a run would, through the kernel: it asks for the file system's numbers, which
// the kernel never keeps, and opens a file that the tree makes itself, so that a guest's storage
// has no part in it. It hangs when the mount does, until the server is killed.
func (s *starter) look() error {
	defer s.looking.Store(false)
	tree := filepath.Join(s.base, "tree")
	var st unix.Statfs_t
	if err := unix.Statfs(tree, &st); err != nil {
		return fmt.Errorf("the mount: %w", err)
	}
	// Past the page cache, from which nothing would be asked, and past the kernel's queue of what it reads
	// ahead, which is full when a guest's storage does not answer (max_background).
	f, err := os.OpenFile(filepath.Join(tree, lookFile), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return fmt.Errorf("the mount: %w", err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the mount: %w", err)
	}
	return nil
}

var errLooking = errors.New("the mount has not answered the last look at it")

// lookFile is in every tree.
const lookFile = "README.txt"

// killWhenClosed kills p, the first process of its PID namespace and so all in it, when the other
// end of ctl is closed; it returns then or when done is closed.
func killWhenClosed(ctl *os.File, p *os.Process, done <-chan struct{}) {
	for {
		fds := []unix.PollFd{{Fd: int32(ctl.Fd()), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, int(watchPeriod.Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			_ = p.Kill()
			return
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// watchPeriod bounds how long the end of a run can go unnoticed by its watcher.
const watchPeriod = 50 * time.Millisecond

// readAhead raises what the kernel reads ahead on the tree's mount.
func (s *starter) readAhead() {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(s.base, "tree"), &st) != nil {
		return
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	_ = fusefs.SetReadAhead(dev, readAheadKiB) // where /sys is read-only, reading in sequence is slower
}

// readAheadKiB is enough for two requests of the size that fusefs answers.
const readAheadKiB = 2032

// insideSettings are for the process inside.
type insideSettings struct {
	Base string `json:"base"`
	Bind bool   `json:"bind"`
}

func decodeSettings(text string) (s insideSettings, err error) {
	err = json.Unmarshal([]byte(text), &s)
	return s, err
}
