package sandbox

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// applianceBytes is what one appliance takes at its peak: qemu 720 to 810 MB resident with
	// libguestfs' default memory, and the helper's.
	applianceBytes = 900 << 20
	// UnlockMemory is an appliance's memory in MiB where there are keys: LUKS2 lets its key
	// derivation use 1 GiB, which the default of 1,280 MiB does not leave free. unlockBytes is
	// what that adds.
	UnlockMemory = 2048
	unlockBytes  = 1 << 30
	// roomBytes is between what an appliance usually takes and what must never be taken: all of
	// the virtual machine's memory as the page cache of a guest that is read much, translated
	// code, and tmpSize.
	roomBytes = 1200 << 20
	// maxAuto bounds how many appliances are run without being told to.
	maxAuto = 4
)

// Need is what one appliance takes, in bytes; keys tells whether it may have to open something.
func Need(keys bool) int64 {
	if keys {
		return applianceBytes + unlockBytes
	}
	return applianceBytes
}

// Limit is what the kernel should let one appliance take, in bytes.
func Limit(keys bool) int64 { return Need(keys) + roomBytes }

// AppliancesFor is how many appliances may run at a time that need so many bytes each: in half
// of the free memory, at least one.
func AppliancesFor(need, free int64) int {
	return int(max(1, min(maxAuto, free/2/need)))
}

// AvailableMemory is what can be used without swapping, in bytes: the kernel's estimate, or
// what the cgroup of this process leaves, whichever is less. Unknown is much.
func AvailableMemory() int64 {
	return min(memAvailable("/proc/meminfo"), cgroupLeft("/proc/self/cgroup", "/sys/fs/cgroup"))
}

func memAvailable(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return math.MaxInt64
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			if kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	return math.MaxInt64
}

// cgroupLeft is what the memory limits of this process' cgroup and its parents leave, in
// version 1 or 2. Memory that only caches files counts as free, since it is given back.
func cgroupLeft(self, root string) int64 {
	b, err := os.ReadFile(self)
	if err != nil {
		return math.MaxInt64
	}
	left := int64(math.MaxInt64)
	for _, line := range strings.Split(string(b), "\n") {
		part := strings.SplitN(line, ":", 3)
		if len(part) != 3 {
			continue
		}
		dir, limit, used := root, "memory.max", "memory.current"
		if part[1] == "memory" {
			dir, limit, used = filepath.Join(root, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
		} else if part[1] != "" {
			continue
		}
		for p := filepath.Clean("/" + part[2]); ; p = filepath.Dir(p) {
			at := filepath.Join(dir, p)
			if l, ok := number(filepath.Join(at, limit)); ok {
				if u, ok := number(filepath.Join(at, used)); ok {
					left = min(left, max(0, l-u+inactive(filepath.Join(at, "memory.stat"))))
				}
			}
			if p == "/" {
				break
			}
		}
	}
	return left
}

func number(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil // "max" is no number, and no limit
}

// inactive is the page cache that the cgroup gives back first.
func inactive(path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "inactive_file "); ok {
			if n, err := strconv.ParseInt(rest, 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}

// CheckMemory refuses to start what would be killed for lack of memory.
func CheckMemory(need, free int64) error {
	if free < need {
		return fmt.Errorf("libguestfs needs about %d MiB of memory and %d MiB are free; free memory, raise the memory limit, or read fewer backups at a time",
			need>>20, free>>20)
	}
	return nil
}
