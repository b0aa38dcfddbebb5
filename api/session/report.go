package session

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a Report. The controller reads it although a hostile guest may have written it.
const (
	MaxReportBytes = 256 << 10
	MaxMessage     = 1024 // bytes of one message, as in the CRD's reasons
	MaxVolumes     = 128  // of one disk
)

// State is how far the session, a backup or a disk is.
type State string

// The states. A session is Serving as soon as it has listeners, whatever its disks are.
const (
	Waiting  State = "Waiting"  // for what Message says
	Serving  State = "Serving"  // the front ends answer
	Readable State = "Readable" // a backup with at least one readable disk; a disk with a readable volume
	Failed   State = "Failed"   // Message says why
)

// Report is what became of a Session.
type Report struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // the Session's
	Node     string    `json:"node,omitempty"`
	Updated  time.Time `json:"updated"`
	State    State     `json:"state"` // Waiting, Serving or Failed
	Message  string    `json:"message,omitempty"`
	Restarts int       `json:"restarts,omitempty"` // of the worker

	Backups []BackupReport `json:"backups,omitempty"`
}

// BackupReport is what became of one backup.
type BackupReport struct {
	Name    string       `json:"name"`
	State   State        `json:"state"` // Waiting, Readable or Failed
	Message string       `json:"message,omitempty"`
	Disks   []DiskReport `json:"disks,omitempty"`
}

// DiskReport is what became of one disk.
type DiskReport struct {
	Name    string         `json:"name"`
	State   State          `json:"state"` // Waiting, Readable or Failed
	Message string         `json:"message,omitempty"`
	Format  string         `json:"format,omitempty"` // raw, qcow2
	Size    uint64         `json:"size,omitempty"`   // virtual size, bytes
	Volumes []VolumeReport `json:"volumes,omitempty"`
}

// VolumeReport is one file system.
type VolumeReport struct {
	Name   string `json:"name"` // p1, vg-lv
	Type   string `json:"type,omitempty"`
	Engine string `json:"engine,omitempty"`
	Path   string `json:"path,omitempty"` // where the tree shows it
}

// DecodeReport reads and validates a Report of the session id.
func DecodeReport(b []byte, id string) (*Report, error) {
	r := new(Report)
	if err := decode(b, MaxReportBytes, r); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	if r.ID != id {
		return nil, fmt.Errorf("report: it is of another session, %.80q", r.ID)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}

// Validate checks everything that a reader relies on. Errors tell the field.
func (r *Report) Validate() error {
	switch {
	case r.Version != Version:
		return fmt.Errorf("report: version %d instead of %d: controller and agent are of different releases", r.Version, Version)
	case r.State != Waiting && r.State != Serving && r.State != Failed:
		return fmt.Errorf("report: state %.80q", r.State)
	case len(r.Backups) > MaxBackups:
		return fmt.Errorf("report: %d backups exceed the limit of %d", len(r.Backups), MaxBackups)
	case len(r.Node) > MaxName || r.Restarts < 0:
		return errors.New("report: node or restarts is out of range")
	}
	if err := checkMessage(r.Message); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	seen := map[string]bool{}
	for i := range r.Backups {
		b := &r.Backups[i]
		if err := b.validate(); err != nil {
			return fmt.Errorf("report: backups[%d]: %w", i, err)
		}
		if seen[b.Name] {
			return fmt.Errorf("report: backups[%d]: %q is there twice", i, b.Name)
		}
		seen[b.Name] = true
	}
	return nil
}

func (b *BackupReport) validate() error {
	if err := checkPart(b.Name, b.State, b.Message); err != nil {
		return err
	}
	if len(b.Disks) > MaxDisks {
		return fmt.Errorf("%d disks exceed the limit of %d", len(b.Disks), MaxDisks)
	}
	seen := map[string]bool{}
	for i, d := range b.Disks {
		if err := checkPart(d.Name, d.State, d.Message); err != nil {
			return fmt.Errorf("disks[%d]: %w", i, err)
		}
		switch {
		case seen[d.Name]:
			return fmt.Errorf("disks[%d]: %q is there twice", i, d.Name)
		case len(d.Volumes) > MaxVolumes:
			return fmt.Errorf("disks[%d]: %d volumes exceed the limit of %d", i, len(d.Volumes), MaxVolumes)
		}
		seen[d.Name] = true
		for _, v := range append([]VolumeReport{{Name: d.Format}}, d.Volumes...) {
			for _, s := range [...]string{v.Name, v.Type, v.Engine, v.Path} {
				if err := checkMessage(s); err != nil {
					return fmt.Errorf("disks[%d]: %w", i, err)
				}
			}
		}
	}
	return nil
}

func checkPart(name string, state State, message string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if state != Waiting && state != Readable && state != Failed {
		return fmt.Errorf("state %.80q", state)
	}
	return checkMessage(message)
}

// checkMessage keeps what people will read in a status short and free of terminal controls.
func checkMessage(s string) error {
	if len(s) > MaxMessage {
		return fmt.Errorf("a text of %d bytes exceeds the limit of %d", len(s), MaxMessage)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%.80q is not UTF-8", s)
	}
	if strings.ContainsFunc(s, control) {
		return fmt.Errorf("%.80q holds control characters", s)
	}
	return nil
}

// control tells whether a terminal, or the direction of a text, is changed by c.
func control(c rune) bool {
	return c < 0x20 || c == 0x7f || 0x80 <= c && c < 0xa0 || c == 0x2028 || c == 0x2029 || 0x202a <= c && c <= 0x202e || 0x2066 <= c && c <= 0x2069
}

// Text makes of s what a document's text may be: one line of at most MaxMessage bytes without
// control characters.
func Text(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(c rune) rune {
		if control(c) {
			return ' '
		}
		return c
	}, strings.ReplaceAll(s, "\n", "; "))
	const more = "..."
	if len(s) > MaxMessage {
		s = strings.ToValidUTF8(s[:MaxMessage-len(more)], "") + more
	}
	return s
}
