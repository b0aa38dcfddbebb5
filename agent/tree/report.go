package tree

import (
	"fmt"
	"strings"
	"time"
)

// BackupReport is what was found in one backup: the content of METADATA.json, of the HTTPS
// API's /api/v1/backups and of vmfr-agent inspect --json.
type BackupReport struct {
	Name      string     `json:"name"`
	VM        string     `json:"vm,omitempty"`
	Timestamp *time.Time `json:"timestamp,omitempty"`
	Path      string     `json:"path"` // "/backups/<name>"
	// OperatingSystems are those installed on the disks, in the order of the VM's disks.
	OperatingSystems []OperatingSystem `json:"operatingSystems,omitempty"`
	// Mounts are what the systems' fstabs say, each system's in the order of mounting.
	Mounts []Mount `json:"mounts,omitempty"`
	// VolumeGroups are LVM's.
	VolumeGroups []VolumeGroup `json:"volumeGroups,omitempty"`
	// Fallback tells how the engine stands that reads what no native one does; nil: not needed.
	Fallback *FallbackReport `json:"fallback,omitempty"`
	Disks    []DiskReport    `json:"disks"`
	Warnings []string        `json:"warnings,omitempty"`
}

// OperatingSystem is an installed system. Its texts are the guest's, printable and short.
type OperatingSystem struct {
	Path    string `json:"path"`              // of its root directory: "/backups/<backup>/<disk>"
	Family  string `json:"family"`            // "linux", "windows"
	ID      string `json:"id,omitempty"`      // ID of os-release(5): "debian"
	Version string `json:"version,omitempty"` // VERSION_ID: "12"
	Name    string `json:"name,omitempty"`    // PRETTY_NAME: "Debian GNU/Linux 12 (bookworm)"
}

// Title is the system's name for a person.
func (o OperatingSystem) Title() string {
	if o.Name != "" {
		return o.Name
	}
	if s := strings.TrimSpace(o.ID + " " + o.Version); s != "" {
		return s
	}
	return "an unnamed " + o.Family + " system"
}

// MountState tells what became of an entry of an fstab.
type MountState string

// The states of a mount.
const (
	MountShown    MountState = "mounted"    // its files are at Path
	MountNoAuto   MountState = "noauto"     // the guest does not mount it by itself: it is beside its disk
	MountIgnored  MountState = "ignored"    // nothing that the backup's disks hold: Note tells what
	MountNotFound MountState = "notFound"   // no disk of the backup holds the source
	MountFailed   MountState = "notMounted" // Note tells why; the file system is beside its disk
	MountPending  MountState = "pending"    // known when the fallback's system has booted
)

// Mount is an entry of a system's fstab. Swap, /proc and the like are left out.
type Mount struct {
	System     string     `json:"system"` // OperatingSystem.Path
	MountPoint string     `json:"mountPoint"`
	Source     string     `json:"source"` // as the guest wrote it
	Type       string     `json:"type,omitempty"`
	Options    string     `json:"options,omitempty"`
	State      MountState `json:"state"`
	Note       string     `json:"note,omitempty"` // a sentence for a person
	Disk       string     `json:"disk,omitempty"`
	Volume     string     `json:"volume,omitempty"`
	Path       string     `json:"path,omitempty"` // where its files are
}

// VolumeGroup is a volume group of LVM2.
type VolumeGroup struct {
	Name     string   `json:"name"`
	UUID     string   `json:"uuid,omitempty"`
	Disks    []string `json:"disks"`             // of its physical volumes
	Missing  []string `json:"missing,omitempty"` // physical volumes that are on no disk of the backup
	Warnings []string `json:"warnings,omitempty"`
}

// FallbackState tells how a backup's fallback stands.
type FallbackState string

// The states of a fallback.
const (
	FallbackNotStarted FallbackState = "notStarted" // it boots when a folder is opened that needs it
	FallbackStarting   FallbackState = "starting"
	FallbackReady      FallbackState = "ready"
	FallbackFailed     FallbackState = "failed" // opening the folder later tries again
)

// FallbackReport tells how the engine stands that reads what no native engine does.
type FallbackReport struct {
	Engine   string        `json:"engine"`
	State    FallbackState `json:"state"`
	Stage    string        `json:"stage,omitempty"`    // what it is busy with or waits for, while it starts
	Progress int           `json:"progress,omitempty"` // per cent, while it starts
	Error    string        `json:"error,omitempty"`
	Advice   string        `json:"advice,omitempty"`
}

// Sentence tells a person how it stands.
func (f FallbackReport) Sentence() string {
	if f.State == FallbackStarting && f.Progress > 0 {
		return fmt.Sprintf("%s, %d %% done", f.Standing(), f.Progress)
	}
	return f.Standing()
}

// Standing is Sentence without what changes from one second to the next.
func (f FallbackReport) Standing() string {
	switch f.State {
	case FallbackNotStarted:
		return f.Engine + " reads some of its disks; it starts when their folder is opened, which can take a minute"
	case FallbackStarting:
		if f.Stage == "" {
			return f.Engine + " is starting"
		}
		return f.Engine + " is starting: " + f.Stage
	case FallbackFailed:
		return f.Engine + " could not start: " + f.Error
	}
	return f.Engine + " reads some of its disks"
}

// State tells how much of a disk can be read.
type State string

// The states of a disk.
const (
	StateReadable   State = "readable"   // every file system on it is served
	StatePartial    State = "partial"    // some are; the others have an error
	StateUnreadable State = "unreadable" // none is; Error tells why
	StatePending    State = "pending"    // the fallback reads it, and has not been needed yet
)

// DiskReport is what was found on one disk.
type DiskReport struct {
	Name        string         `json:"name"`
	Source      string         `json:"source,omitempty"`
	Format      string         `json:"format,omitempty"`
	VirtualSize int64          `json:"virtualSize"` // bytes
	State       State          `json:"state"`
	Path        string         `json:"path"`              // "/backups/<backup>/<disk>"
	RawPath     string         `json:"rawPath,omitempty"` // "/disks/<backup>/<disk>.raw"
	Error       string         `json:"error,omitempty"`
	Advice      string         `json:"advice,omitempty"`
	Table       *TableReport   `json:"partitionTable,omitempty"`
	Volumes     []VolumeReport `json:"volumes"`
	Warnings    []string       `json:"warnings,omitempty"`
}

// TableReport describes a partition table.
type TableReport struct {
	Scheme     string `json:"scheme"` // "gpt", "mbr", "none"
	SectorSize int    `json:"sectorSize,omitempty"`
	ID         string `json:"id,omitempty"`
}

// VolumeReport is a partition, a logical volume, an array or a whole disk without partitions,
// and what it holds.
type VolumeReport struct {
	Name     string `json:"name"`
	Label    string `json:"label,omitempty"` // of the partition
	UUID     string `json:"partUUID,omitempty"`
	Type     string `json:"type,omitempty"`
	TypeName string `json:"typeName,omitempty"`
	Start    int64  `json:"start"` // bytes
	Size     int64  `json:"size"`  // bytes
	Content  string `json:"content"`
	// Group is the volume group that this is a physical volume of.
	Group string `json:"volumeGroup,omitempty"`
	// Logical is set for a logical volume.
	Logical    *LogicalVolume    `json:"logicalVolume,omitempty"`
	Path       string            `json:"path,omitempty"`      // where its files are, or why not
	MountedAt  []string          `json:"mountedAt,omitempty"` // where they are shown once more
	FileSystem *FileSystemReport `json:"fileSystem,omitempty"`
	// Subvolumes of a btrfs that have a folder of their own.
	Subvolumes []SubvolumeReport `json:"subvolumes,omitempty"`
	Error      string            `json:"error,omitempty"`
	Advice     string            `json:"advice,omitempty"`

	// OpenTime is how long the engine took; not in JSON, which is the same for the same input.
	OpenTime time.Duration `json:"-"`
}

// Roots are the paths at which the volume's files are found, every file once: more than one
// for a btrfs whose subvolumes are shown apart, none where there are no files.
func (v VolumeReport) Roots() []string {
	var all []string
	if v.FileSystem != nil && v.Path != "" {
		all = append(all, v.Path)
	}
	for _, s := range v.Subvolumes {
		if s.Path != v.Path {
			all = append(all, s.Path)
		}
	}
	return all
}

// LogicalVolume is what LVM says of a logical volume.
type LogicalVolume struct {
	Group string   `json:"group"`
	Name  string   `json:"name"`
	UUID  string   `json:"uuid,omitempty"`
	Disks []string `json:"disks,omitempty"` // that its bytes are on
}

// SubvolumeReport is a btrfs subvolume with a folder of its own.
type SubvolumeReport struct {
	Name      string   `json:"name"` // its path in the file system; empty: all of it
	ID        uint64   `json:"id"`
	Path      string   `json:"path"`
	MountedAt []string `json:"mountedAt,omitempty"`
}

// FileSystemReport describes a file system that is served.
type FileSystemReport struct {
	Type      string   `json:"type"`
	Engine    string   `json:"engine"`
	Label     string   `json:"label,omitempty"`
	UUID      string   `json:"uuid,omitempty"`
	BlockSize uint32   `json:"blockSize,omitempty"`
	Total     uint64   `json:"total"`
	Used      uint64   `json:"used"`
	Files     uint64   `json:"files,omitempty"`
	FreeFiles uint64   `json:"freeFiles,omitempty"`
	Journal   string   `json:"journal,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

// Summary counts disks by state. One that is pending is not known to be readable and counts
// as partial.
func Summary(backups []BackupReport) (readable, partial, unreadable int) {
	for _, b := range backups {
		for _, d := range b.Disks {
			switch d.State {
			case StateReadable:
				readable++
			case StatePartial, StatePending:
				partial++
			default:
				unreadable++
			}
		}
	}
	return readable, partial, unreadable
}
