package supervisor

import (
	"os/exec"
	"runtime"
)

// spawner starts processes from one thread that lives as long as the supervisor: the kernel ends
// a worker with the thread that started it (PR_SET_PDEATHSIG), not with the process.
type spawner struct{ todo chan func() }

func newSpawner() *spawner {
	s := &spawner{todo: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.todo {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	done := make(chan error)
	s.todo <- func() { done <- cmd.Start() }
	return <-done
}

// close ends the thread, when no worker is left.
func (s *spawner) close() { close(s.todo) }
