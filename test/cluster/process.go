package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// logTail is how much of a program's log a failed test shows, in bytes.
const logTail = 16 << 10

// process is a program that runs until its test ends.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// start starts a program. It is stopped when the test ends, after all that was started later, and
// the end of its log is shown if the test failed.
//
// Nothing is left if the test's process is killed instead. The kernel then kills the program:
// Pdeathsig, which is sent when the thread ends that started it, so that thread is kept. And the
// program is the first of a PID namespace, which takes its own children along.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: filepath.Base(cmd.Path), cmd: cmd, done: make(chan struct{})}
	log, err := os.CreateTemp(t.TempDir(), p.name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	p.log, cmd.Stdout, cmd.Stderr = log.Name(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID,
		Setpgid: true} // an interrupt from the terminal is for the test
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_ = log.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // a test that needed it fails by itself
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", p.name, p.tail())
		}
	})
	return p
}

// stop kills the program and returns when it has ended: none has a state that is worth its time.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// alive tells whether the program still runs.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// tail is the end of the program's log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-logTail):])
}

// await waits until ready returns nil. It ends the test when limit has passed or the program has
// ended before.
func (p *process) await(t testing.TB, limit time.Duration, ready func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		err := ready()
		switch {
		case err == nil:
			return
		case !p.alive():
			t.Fatalf("%s ended: %v", p.name, err)
		case time.Now().After(end):
			t.Fatalf("%s after %s: %v", p.name, limit, err)
		}
	}
}

// loopback is an address of 127.0.0.0/8 for the servers of one test. All of that network is this
// machine, and two out of 16 million hardly meet; so ports need not be sought, and none can be
// taken between its choice and its use.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}
