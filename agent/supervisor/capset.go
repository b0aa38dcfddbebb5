package supervisor

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setCapabilities sets the capability sets of all threads. A capability that the process does
// not have cannot be kept; what is there of the wanted ones stays.
func setCapabilities(keep *[2]unix.CapUserData) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for i := range keep {
		keep[i].Permitted &= have[i].Permitted
		keep[i].Effective = keep[i].Permitted
	}
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&keep[0])), 0)
	runtime.KeepAlive(keep)
	if e != 0 {
		return fmt.Errorf("capabilities: %w", e)
	}
	return nil
}
