package tree

import (
	"time"
)

// BackupReport is what was found in one backup: the content of METADATA.json, of the HTTPS
// API's /api/v1/backups and of vmfr-agent inspect --json.
type BackupReport struct {
	Name      string       `json:"name"`
	VM        string       `json:"vm,omitempty"`
	Timestamp *time.Time   `json:"timestamp,omitempty"`
	Path      string       `json:"path"` // "/backups/<name>"
	Disks     []DiskReport `json:"disks"`
}

// State tells how much of a disk can be read.
type State string

// The states of a disk.
const (
	StateReadable   State = "readable"   // every file system on it is served
	StatePartial    State = "partial"    // some are; the others have an error
	StateUnreadable State = "unreadable" // none is; Error tells why
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

// VolumeReport is a partition or a whole disk without partitions, and what it holds.
type VolumeReport struct {
	Name       string            `json:"name"`
	Label      string            `json:"label,omitempty"` // of the partition
	UUID       string            `json:"partUUID,omitempty"`
	Type       string            `json:"type,omitempty"`
	TypeName   string            `json:"typeName,omitempty"`
	Start      int64             `json:"start"` // bytes
	Size       int64             `json:"size"`  // bytes
	Content    string            `json:"content"`
	Path       string            `json:"path,omitempty"` // where its files are
	FileSystem *FileSystemReport `json:"fileSystem,omitempty"`
	Error      string            `json:"error,omitempty"`
	Advice     string            `json:"advice,omitempty"`

	// OpenTime is how long the engine took; not in JSON, which is the same for the same input.
	OpenTime time.Duration `json:"-"`
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

// Summary counts disks by state.
func Summary(backups []BackupReport) (readable, partial, unreadable int) {
	for _, b := range backups {
		for _, d := range b.Disks {
			switch d.State {
			case StateReadable:
				readable++
			case StatePartial:
				partial++
			default:
				unreadable++
			}
		}
	}
	return readable, partial, unreadable
}
