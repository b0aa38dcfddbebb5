package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// markEnv tells the test binary to be the test that gets killed, with the mark of its programs.
const markEnv = "VMFR_TEST_MARK"

// TestKilled: when a test's process is killed, its programs end, and what they started.
func TestKilled(t *testing.T) {
	if mark := os.Getenv(markEnv); mark != "" {
		start(t, exec.Command("sh", "-c", mark+" & "+mark+" & wait"))
		Await(t, time.Minute, func() error { return running(mark, 3) })
		fmt.Println("running")
		select {}
	}
	mark := fmt.Sprintf("sleep 86400.%d", os.Getpid())
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), markEnv+"="+mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line == "running\n" { // but for a moment in which one becomes sleep: then it has no command line
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = Poll(ctx, 10*time.Millisecond, func() error { return running(mark, 3) })
	}
	if err := errors.Join(err, cmd.Process.Kill()); err != nil {
		t.Errorf("%q: %v", line, err)
	}
	_ = cmd.Wait()
	Await(t, time.Minute, func() error { return running(mark, 0) })
}

// running is nil if n processes have the mark in their command lines.
func running(mark string, n int) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	var found []string
	for _, path := range lines {
		b, err := os.ReadFile(path) // it may have ended since
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.Contains(line, mark) {
			found = append(found, line)
		}
	}
	if len(found) != n {
		return fmt.Errorf("%d processes, want %d: %q", len(found), n, found)
	}
	return nil
}

// TestThread: a program outlives the thread of the goroutine that started it.
func TestThread(t *testing.T) {
	in, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	var p *process
	ended := make(chan int)
	var begin func()
	begin = func() {
		runtime.LockOSThread() // without an end: the thread goes with the goroutine
		if unix.Gettid() == unix.Getpid() {
			go begin() // on another thread: the first one never ends
			return
		}
		cmd := exec.Command("cat")
		cmd.Stdin = in
		p = start(t, cmd)
		_ = in.Close()
		ended <- unix.Gettid()
	}
	go begin()
	task := fmt.Sprintf("/proc/self/task/%d", <-ended)
	Await(t, time.Minute, func() error {
		_, err := os.Stat(task)
		switch {
		case err == nil:
			return fmt.Errorf("%s is still there", task)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		}
		return err
	})
	if _, err := write.WriteString("alive\n"); err != nil {
		t.Fatal(err)
	}
	p.await(t, time.Minute, func() error {
		if p.tail() != "alive\n" {
			return errors.New("it says nothing")
		}
		return nil
	})
}
