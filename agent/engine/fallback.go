package engine

import (
	"context"

	"vmfr/agent/fsys"
	"vmfr/agent/volume"
)

// Fallback reads what every native engine declares unsupported, by looking at all disks of a
// backup from a system of its own (libguestfs).
type Fallback interface {
	// Name is what METADATA.json calls the engine: "libguestfs".
	Name() string
	// Backup prepares one backup and starts nothing. The disks must outlive the Appliance.
	Backup(name string, disks []volume.Disk) Appliance
}

// Appliance is a Fallback's view of one backup. It is safe for concurrent use. It boots at
// first use, is stopped when nobody used it for a while, and boots again when somebody does;
// file systems that it returned stay valid over that.
type Appliance interface {
	// Filesystems boots the appliance, which can take a minute, and lists every file system
	// that it finds. The list is the same each time. Errors say what to do next.
	Filesystems(ctx context.Context) ([]Found, error)
	// Status tells a person how it stands. It never blocks.
	Status() ApplianceStatus
	// Close ends the appliance and removes what it left.
	Close() error
}

// Found is a file system that an Appliance sees. Exactly what holds it is told by Disk and
// Partition, by VG and LV, or by neither (a RAID array): then by Device alone.
type Found struct {
	Device    string // the appliance's name: "/dev/sda2", "/dev/vg/thin", "/dev/mapper/luks-..."
	Disk      string // the Disk's name where one disk holds it, also through LUKS
	Partition int    // its number there, 0: the whole disk
	VG, LV    string // the logical volume that holds it
	Encrypted bool   // reached through LUKS
	Subvolume string // of a btrfs: its path; empty: the whole file system
	SubvolID  uint64 // of a btrfs
	Default   bool   // the subvolume that a mount without options shows
	Type      string // "btrfs", "exfat", ...
	Label     string
	UUID      string
	FS        fsys.FS // nil: Err tells why; it may also be nil for formats that a native engine reads
	Err       error   // fsys.ErrNoKey: LUKS without a fitting key
}

// ApplianceStatus is how an appliance stands.
type ApplianceStatus struct {
	State    string // "not started", "waiting", "starting", "running", "idle", "failed"
	Stage    string // what "waiting" and "starting" are busy with, for a person
	Progress int    // per cent while it starts
	Err      error  // of "failed"
}
