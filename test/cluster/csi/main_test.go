package csi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

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
		err = mountns.LeaveOthers(os.TempDir()) // who unmounts one of those would wait for the end of these tests
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests' mounts:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inOwnMounts runs this program again, with a directory for temporary files, and returns its exit
// code. A loop device of a file there fails the tests, and is detached, however they have ended.
func inOwnMounts() (code int) {
	tmp, err := os.MkdirTemp("", "csi")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(detachLeft(filepath.Base(tmp)), os.RemoveAll(tmp)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	runtime.LockOSThread() // whose end Pdeathsig means
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownMountsEnv+"=1", "TMPDIR="+tmp)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var ended *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil:
		return 0
	case errors.As(err, &ended) && ended.Exited():
		return ended.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

// detachLeft detaches the loop devices that stay attached to files, which may be deleted, below a folder of this name,
// and says which there were.
func detachLeft(folder string) error {
	left, err := attachedBelow(folder)
	for end := time.Now().Add(leftLimit); err == nil && len(left) > 0 && time.Now().Before(end); left, err = attachedBelow(folder) {
		time.Sleep(10 * time.Millisecond)
	}
	for device, file := range left {
		err = errors.Join(err, fmt.Errorf("%s was left attached to %s", device, file), exec.Command("losetup", "--detach", device).Run())
	}
	return err
}

// attachedBelow are the files below a folder of this name, by their loop devices. Paths begin anywhere: those of mount
// namespaces that are gone have no begin any more.
func attachedBelow(folder string) (map[string]string, error) {
	attached, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	left := map[string]string{}
	for _, path := range attached {
		if file, e := os.ReadFile(path); e == nil && strings.Contains(string(file), "/"+folder+"/") {
			left["/dev/"+filepath.Base(filepath.Dir(filepath.Dir(path)))] = strings.TrimSpace(string(file))
		}
	}
	return left, err
}
