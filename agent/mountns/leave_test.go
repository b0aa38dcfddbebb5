package mountns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// TestLeaveOthers has a process with mounts of its own leave those of loop devices: the one that
// holds what it keeps stays, and this process's own all do.
func TestLeaveOthers(t *testing.T) {
	fixture.NeedRoot(t)
	if kept := os.Getenv("VMFR_TEST_KEEP"); kept != "" {
		if err := LeaveOthers(kept); err != nil {
			t.Fatal(err)
		}
		fmt.Println("left", loops(t))
		return
	}
	first, second := fixture.Mount(t, fixture.Ext4(t, "", 1<<20), "ext4", "", 0, 0), fixture.Mount(t, fixture.Ext4(t, "", 1<<20), "ext4", "", 0, 0)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestLeaveOthers$")
	cmd.Env = append(os.Environ(), "VMFR_TEST_KEEP="+filepath.Join(second, "file"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), first) || !strings.Contains(string(out), second) {
		t.Errorf("%s is to be left, %s is not: %v\n%s", first, second, err, out)
	}
	if mine := loops(t); !slices.Contains(mine, first) || !slices.Contains(mine, second) {
		t.Errorf("mounts that were left elsewhere are gone here: %q", mine)
	}
}

// loops are the folders where this process sees loop devices and FUSE mounted.
func loops(t *testing.T) (at []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if dir := othersMount(line); dir != "" {
			at = append(at, dir)
		}
	}
	return at
}

func TestOthersMount(t *testing.T) {
	for line, want := range map[string]string{
		"36 35 7:3 / /a\\040b rw - ext4 /dev/loop3 rw\n":             "/a b",
		"36 35 0:52 / /c rw shared:2 - btrfs /dev/loop4 rw\n":        "/c",
		"36 35 0:53 / /d rw - fuse.vmfr vmfr rw\n":                   "/d",
		"36 35 254:0 / / rw - ext4 /dev/vda rw\n":                    "",
		"36 35 0:22 / /sys/fs/fuse/connections rw - fusectl none rw": "",
		"36 35 7:3": "",
	} {
		if got := othersMount(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/a", "/a/b", false}, {"/..a", "/", true}} {
		if got := below(c.path, c.dir); got != c.want {
			t.Errorf("%s below %s: %v", c.path, c.dir, got)
		}
	}
}
