package helper

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeLimit is how long the probe may take. With KVM that works it is done in half a second.
const probeLimit = 5 * time.Second

// qemu is the program that libguestfs runs on this machine.
func qemu() string {
	if hv := os.Getenv("LIBGUESTFS_HV"); hv != "" {
		return hv
	}
	return map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64", "s390x": "qemu-system-s390x"}[runtime.GOARCH]
}

// bootCode writes 0x10 to port 0xf4 and stops:
//
//	b0 10  mov al, 0x10
//	e6 f4  out 0xf4, al     qemu's debug exit: it ends with status 0x10*2+1
//	f4     hlt
//	eb fd  jmp to hlt
var bootCode = []byte{0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd}

const bootStatus = 0x10*2 + 1

// bootSector is bootCode as a disk that a BIOS boots.
func bootSector() []byte {
	sector := make([]byte, 512)
	copy(sector, bootCode)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// probeKVM returns nil if a virtual machine runs. /dev/kvm that opens proves little: in a nested
// virtual machine creating a processor, or running it, can fail or never return. So a boot sector
// of seven bytes is run by the qemu that libguestfs runs, with the processor model that libguestfs
// asks for. On other processors than amd64 the device is only opened: there the appliance's own
// start is the probe.
func probeKVM(ctx context.Context, qemu, scratch string, limit time.Duration) error {
	dev, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = unix.Close(dev)
	if runtime.GOARCH != "amd64" {
		return nil
	}
	disk := filepath.Join(scratch, "kvm-probe")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(disk) }()
	return runProbe(ctx, qemu, disk, limit, "-machine", "accel=kvm", "-cpu", "max")
}

// runProbe boots disk and expects bootStatus within limit.
func runProbe(ctx context.Context, qemu, disk string, limit time.Duration, accel ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, append(accel, "-m", "16", "-nodefaults", "-display", "none", "-no-reboot",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-snapshot", "-drive", "file="+disk+",format=raw,if=ide")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == bootStatus {
		return nil
	}
	if err == nil {
		err = errors.New("the boot sector did not run")
	}
	return errors.Join(err, ctx.Err())
}
