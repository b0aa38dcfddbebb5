package csi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
)

// ownMountsEnv is set for the process that has a mount namespace of its own.
const ownMountsEnv = "VMFR_TEST_OWN_MOUNTS"

// TestMain runs the tests in a mount namespace of their own. Else other processes, which make
// theirs at any time, would have the tests' file systems mounted in them for a while, and with them
// the loop devices. They go with the process, too, if it is killed.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // what mounts is skipped
	}
	if os.Getenv(ownMountsEnv) == "" {
		os.Exit(inOwnMounts())
	}
	err := mountns.OwnRoot()
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests' mounts:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inOwnMounts runs this program again, and returns its exit code.
func inOwnMounts() int {
	runtime.LockOSThread() // whose end Pdeathsig means
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownMountsEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended) && ended.Exited():
		return ended.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
