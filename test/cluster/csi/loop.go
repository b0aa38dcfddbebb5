package csi

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// detachLimit is how long a device may take to go once it was told to: whoever has it open is to
// have closed it by then.
const detachLimit = 3 * time.Second

// nodeLimit is how many bytes of a node's name a device can have, which ends with a zero byte.
const nodeLimit = len(unix.LoopInfo64{}.File_name) - 1

// loop is a loop device that is attached to a file.
type loop struct {
	number   int
	readOnly bool
	node     string // whose driver attached it
}

func (l loop) path() string { return fmt.Sprintf("/dev/loop%d", l.number) }

// sys reads a file of the device in sysfs.
func (l loop) sys(name string) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/%s", l.number, name))
	return strings.TrimSpace(string(b)), err
}

// loopsOf returns the loop devices that are attached to the file, in whichever mount namespace that
// was done: it is the inode that counts.
func loopsOf(file string) ([]loop, error) {
	var want unix.Stat_t
	if err := unix.Stat(file, &want); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	attached, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var found []loop
	for _, path := range attached {
		// Only a device whose file has the right name is opened: to open one that somebody is
		// detaching would keep it.
		backing, err := os.ReadFile(path)
		if err != nil || filepath.Base(strings.TrimSpace(string(backing))) != filepath.Base(file) {
			continue
		}
		number, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(path))), "loop"))
		if err != nil {
			return nil, err
		}
		l := loop{number: number}
		info, err := l.status()
		if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) { // detached meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		l.readOnly = info.Flags&unix.LO_FLAGS_READ_ONLY != 0
		l.node = unix.ByteSliceToString(info.File_name[:])
		if info.Device == want.Dev && info.Inode == want.Ino {
			found = append(found, l)
		}
	}
	return found, nil
}

func (l loop) status() (*unix.LoopInfo64, error) {
	f, err := os.Open(l.path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.IoctlLoopGetStatus64(int(f.Fd()))
}

// attach attaches a loop device to the file for a node, and returns it open. With autoclear the kernel
// detaches it when its last user has gone, such as the mount that is made of it.
//
// The kernel keeps the node's name with the device, up to 63 bytes, as it does a file's name that
// losetup gives it (loop(4), lo_file_name): so it is known for as long as the device is attached.
func attach(file, node string, readOnly, autoclear bool) (loop, *os.File, error) {
	mode, flags := os.O_RDWR, uint32(0)
	if readOnly {
		mode, flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	if autoclear {
		flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	backing, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return loop{}, nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return loop{}, nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: flags}}
	copy(config.Info.File_name[:nodeLimit], node)
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return loop{}, nil, fmt.Errorf("a free loop device: %w", err)
		}
		l := loop{number: number, readOnly: readOnly, node: node}
		dev, err := os.OpenFile(l.path(), mode, 0)
		if err != nil {
			return loop{}, nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return l, dev, nil
		}
		_ = dev.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody else was faster
			return loop{}, nil, fmt.Errorf("%s: attach %s: %w", l.path(), file, err)
		}
	}
}

// loopsOn returns those of loopsOf that a node has attached; none where there is no such file.
func loopsOn(node, file string) ([]loop, error) {
	all, err := loopsOf(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(all, func(l loop) bool { return l.node != node }), err
}

// detach lets the device go, at once or when its last user closes it.
func (l loop) detach() error {
	f, err := os.Open(l.path())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", l.path(), err)
	}
	return nil
}

// detachAll detaches all loop devices of the file on a node and returns when they are gone.
func detachAll(file, node string) error {
	loops, err := loopsOn(node, file)
	if err != nil {
		return err
	}
	for _, l := range loops {
		if err := l.detach(); err != nil {
			return err
		}
	}
	for end := time.Now().Add(detachLimit); ; time.Sleep(10 * time.Millisecond) {
		loops, err := loopsOn(node, file)
		if err != nil || len(loops) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is still open, for %s", loops[0].path(), file)
		}
	}
}

// flush brings what was written to the device to its file.
func (l loop) flush() error {
	f, err := os.Open(l.path())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flush %s: %w", l.path(), err)
	}
	return nil
}

// writes is a mark of all that has ended of what changes the device's content; busy: something has
// begun and not ended. If two marks are equal and the device is not busy at the second, nothing
// changed the file between them.
func (l loop) writes() (mark string, busy bool, err error) {
	inflight, err := l.sys("inflight") // "reads writes", before what has ended: nothing falls between
	if err != nil {
		return "", false, err
	}
	stat, err := l.sys("stat")
	if err != nil {
		return "", false, err
	}
	// Documentation/block/stat.rst: write I/Os are the 5th number, discards the 12th.
	const writes, discards = 4, 11
	have, now := strings.Fields(stat), strings.Fields(inflight)
	if len(have) <= discards || len(now) != 2 {
		return "", false, fmt.Errorf("%s: unknown statistics %q, %q", l.path(), stat, inflight)
	}
	return fmt.Sprintf("%d: %s %s", l.number, have[writes], have[discards]), now[1] != "0", nil
}

// mount is one line of a process's mountinfo.
type mount struct {
	device string // "major:minor" of the file system
	path   string
}

// mounts returns this process's mounts (proc(5), mountinfo).
func mounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mount
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			return nil, fmt.Errorf("/proc/self/mountinfo: %q", line)
		}
		all = append(all, mount{device: fields[2], path: unescape(fields[4])})
	}
	return all, nil
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mounted returns the path at which the device's file system is mounted here, "" if nowhere.
func (l loop) mounted() (string, error) {
	number, err := l.sys("dev")
	if err != nil {
		return "", err
	}
	all, err := mounts()
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.device == number {
			return m.path, nil
		}
	}
	return "", nil
}
