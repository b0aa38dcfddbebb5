package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "filtered" {
		filtered()
	}
	os.Exit(m.Run())
}

// filtered says which sockets are left under each filter.
func filtered() {
	for _, left := range []Sockets{UnixSockets, NoSockets} { // the second filter adds to the first
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		if err := RefuseSystemCalls(left); err != nil {
			panic(err)
		}
		for _, domain := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK, unix.AF_VSOCK} {
			fd, err := unix.Socket(domain, unix.SOCK_DGRAM, 0)
			if err == nil {
				_ = unix.Close(fd)
			}
			fmt.Printf("%d:%d:%v ", left, domain, !errors.Is(err, unix.EPERM))
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			_, _ = unix.Close(pair[0]), unix.Close(pair[1])
		}
		fmt.Printf("%d:pair:%v ", left, err == nil)
		fmt.Printf("%d:namespace:%v ", left, !errors.Is(unix.Unshare(unix.CLONE_NEWUSER), unix.EPERM))
	}
	fmt.Println()
	os.Exit(0)
}

func TestFilter(t *testing.T) {
	out, err := exec.Command(os.Args[0], "filtered").CombinedOutput()
	want := "1:1:true 1:2:false 1:16:false 1:40:false 1:pair:true 1:namespace:false 0:1:false 0:2:false 0:16:false 0:40:false 0:pair:false 0:namespace:false"
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("%q, %v\nwant %q", got, err, want)
	}
}

func TestFilterIsForBoth(t *testing.T) {
	for _, a := range []string{"amd64", "arm64"} {
		for _, left := range []Sockets{NoSockets, UnixSockets} {
			if f, err := systemCallFilter(a, left); err != nil || len(f) > unix.BPF_MAXINSNS {
				t.Errorf("%s: %d instructions, %v", a, len(f), err)
			}
		}
	}
	if _, err := systemCallFilter("riscv64", NoSockets); err == nil {
		t.Error("an unknown architecture has a filter")
	}
}
