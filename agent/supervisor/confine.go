package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
)

// needed are the capabilities that the supervisor and those that it starts use, each with its
// reason. Workers and runs of rsync give up even these.
var needed = []uintptr{
	unix.CAP_SYS_ADMIN, // namespaces, the sandbox's root, rsync's FUSE mount
	unix.CAP_SETUID,    // workers' user ids, and the id map of rsync's user namespace
	unix.CAP_SETGID,    // the same for groups
	unix.CAP_SETPCAP,   // emptying the bounding set of workers
	unix.CAP_SETFCAP,   // a user namespace with root's id in it (user_namespaces(7))
	unix.CAP_KILL,      // ending workers, which have other user ids
}

// Confine drops all capabilities but those that are needed, for all threads of this process and
// for all that it will start. It needs a static build.
func Confine() error {
	wanted := needed
	chroot, err := mountns.InChroot()
	if err != nil {
		return err
	}
	if chroot { // never in a container: the sandbox has to leave it first
		wanted = append(slices.Clone(needed), unix.CAP_SYS_CHROOT)
	}
	var keep [2]unix.CapUserData
	for _, c := range wanted {
		bit := uint32(1) << (c % 32)
		keep[c/32].Permitted |= bit
		keep[c/32].Effective |= bit
	}
	for c := uintptr(0); c < 64; c++ {
		if keep[c/32].Permitted&(1<<(c%32)) != 0 {
			continue
		}
		if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); e != 0 {
			if errors.Is(e, unix.EINVAL) {
				break // the last capability that this kernel knows was the one before
			}
			return fmt.Errorf("bounding set: %w", e)
		}
	}
	return setCapabilities(&keep)
}
