package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"vmfr/agent/confine"
	"vmfr/agent/mountns"
)

// Limits of the helper, qemu and what else libguestfs starts.
const (
	maxFiles = 4096
	// maxTasks are the threads of one user id: qemu starts one for each read that waits.
	maxTasks  = 1024
	maxLocked = 64 << 10 // bytes
	// niceness is a worker's: what one session needs must not keep others from being served.
	niceness = 5
	// oomScore makes the kernel choose an appliance before the worker that it serves, which can
	// start another one.
	oomScore = 900
)

// Main is the first program of the new process. It is to be called first of all when the
// program's first argument is Command, with the arguments after that. It returns only if it
// cannot go on, with an exit status.
func Main(args []string) int {
	err := errors.New("this command is for the program's own use")
	if len(args) == 1 {
		err = mountns.OwnRoot() // may start this again, while the descriptor is still inherited
		if err == nil {
			err = become(args[0])
		}
	}
	fmt.Fprintf(os.Stderr, "the appliance's sandbox: %v\n", err)
	return 126
}

func become(settings string) error {
	runtime.LockOSThread() // credentials and filters belong to a thread
	var o Options
	if err := json.Unmarshal([]byte(settings), &o); err != nil {
		return err
	}
	if o.UID <= 0 || o.Disks < 1 || o.Disks > MaxDisks {
		return errors.New("wrong settings")
	}
	var groups []int
	if gid, ok := kvmGroup(); ok {
		groups = append(groups, gid)
	}
	var sockets []int
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"out-of-memory score", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScore)), 0) }},
		{"mounts", func() error { return makeRoot(&o) }},
		{"host name", func() error { return unix.Sethostname([]byte("vmfr")) }},
		{"sockets for the disks", func() (err error) { sockets, err = listen(o.Disks); return err }},
		{"mounts", sealRoot},
		{"handing over the sockets", func() error { return handOver(sockets) }},
		{"descriptors", func() error { return unix.CloseRange(Socket+1, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC) }},
		{"niceness", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, niceness) }},
		{"limits", func() error {
			return confine.SetLimits(confine.Limit{Resource: unix.RLIMIT_NPROC, Value: maxTasks}, confine.Limit{Resource: unix.RLIMIT_NOFILE, Value: maxFiles},
				confine.Limit{Resource: unix.RLIMIT_MEMLOCK, Value: maxLocked}, confine.Limit{Resource: unix.RLIMIT_CORE}, confine.Limit{Resource: unix.RLIMIT_MSGQUEUE})
		}},
		{"privileges", func() error { return confine.DropPrivileges(o.UID, groups...) }},
		// A change of ids cancels what the parent asked for.
		{"end with the parent", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) }},
		{"system calls", func() error { return confine.RefuseSystemCalls(confine.UnixSockets) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return fmt.Errorf("start: %w", unix.Exec(programPath, []string{"vmfr-agent", Argument}, environment()))
}

func environment() []string {
	return []string{
		EnvConfined + "=1", EnvDir + "=" + tmpDir, EnvDisks + "=" + disksDir,
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
		"TMPDIR=" + tmpDir, "HOME=" + tmpDir, "XDG_RUNTIME_DIR=" + tmpDir,
		"LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_PATH=" + applianceDir, "LIBGUESTFS_TMPDIR=" + tmpDir, "LIBGUESTFS_CACHEDIR=" + tmpDir,
	}
}

// listen makes a listening socket for each disk, which the helper's user id may connect to.
func listen(n int) (fds []int, err error) {
	for i := range n {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(disksDir, DiskSocket(i))
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return nil, err
		}
		if err := unix.Chmod(path, 0o666); err != nil {
			return nil, err
		}
		if err := unix.Listen(fd, 16); err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// handOver sends the sockets to the other end of the helper's connection.
func handOver(fds []int) error {
	if err := unix.Sendmsg(Socket, greeting, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return err
	}
	for _, fd := range fds {
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// kvmGroup is the group that /dev/kvm is lent through where not everybody may use it.
func kvmGroup() (int, bool) {
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Mode&0o006 == 0o006 || st.Mode&0o060 != 0o060 || st.Gid == 0 {
		return 0, false
	}
	return int(st.Gid), true
}
