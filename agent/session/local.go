package session

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what a worker of one machine is told and tells.
const (
	// MaxSummary bounds Ready.Summary, in bytes: what a person reads on a terminal.
	MaxSummary = 64 << 10
	// MaxRecords bounds the audit lines of one message, in bytes: package audit's buffer, and a line
	// that is longer than that.
	MaxRecords = 1 << 20
	// maxSource bounds the path of an image, in bytes: Linux' PATH_MAX.
	maxSource = 4096
)

// Local is a worker's first message where there is no node: vmfr-agent serve starts it on the machine
// that has the images. Images and Run follow. Files are the listeners, then what is announced below,
// in that order.
type Local struct {
	Version   string `json:"version"` // of the program
	Listeners `json:"listeners"`
	Mount     string `json:"mount,omitempty"` // where the tree is mounted: the mount's /dev/fuse
	Rsync     bool   `json:"rsync,omitempty"` // the rsync jail's socket and its /dev/fuse
	// Then follows the worker's own /proc/PID/stat.

	DefaultPermissions bool `json:"defaultPermissions,omitempty"` // of the mount

	Credentials Credentials `json:"credentials"`
	// Appliances is how many libguestfs helpers the worker may have at a time, and ask for by
	// Appliance, each of which Helper answers at once. Where it is none, NoAppliance says why.
	Appliances  int       `json:"appliances,omitempty"`
	NoAppliance string    `json:"noAppliance,omitempty"`
	DiskKeys    []DiskKey `json:"diskKeys,omitempty"`

	IdleTimeout time.Duration `json:"idleTimeout,omitempty"` // of SSH connections
	LogFormat   string        `json:"logFormat"`
	LogLevel    string        `json:"logLevel"`
	Audit       bool          `json:"audit,omitempty"`  // the worker sends Records
	Person      bool          `json:"person,omitempty"` // wants Ready.Summary
	// UTCOffset is the machine's, in seconds: a worker has no file that tells it.
	UTCOffset int `json:"utcOffset"`
}

// DiskKey opens encrypted volumes.
type DiskKey struct {
	Disk   string `json:"disk,omitempty"` // the disk's name, or "<backup>/<disk>"; empty: tried on all
	Secret []byte `json:"secret"`
}

// Images are disks of a worker that got Local, with a file for each. Further messages add to them.
type Images []LocalImage

// LocalImage is one disk.
type LocalImage struct {
	Backup    string    `json:"backup"`
	VM        string    `json:"vm,omitempty"`
	Timestamp time.Time `json:"timestamp,omitzero"`
	Disk      string    `json:"disk"`
	Source    string    `json:"source,omitempty"` // the image's path, for people
	Format    string    `json:"format,omitempty"` // raw, qcow2; empty: detect it by content
	Beside    bool      `json:"beside,omitempty"` // a backing file may be asked for
}

// Sealed is the answer to Local: the sandbox is complete, but for what the kernel lacks.
type Sealed struct {
	Weaker []string `json:"weaker,omitempty"`
}

// Beside asks for a file in the folder of an image: the backing file that its header names. Answer
// is the answer.
type Beside struct {
	Image int    `json:"image"` // counted from 0 over all Images
	Name  string `json:"name"`  // see CheckBeside
}

// Opened tells that all images are open: nothing will be asked for any more.
type Opened struct{}

// Ready tells that everything answers.
type Ready struct {
	Readable   int `json:"readable"` // disks
	Partial    int `json:"partial"`
	Unreadable int `json:"unreadable"`
	// For a person: what is on the disks, and the path of a file to show in commands.
	Summary string `json:"summary,omitempty"`
	Example string `json:"example,omitempty"`
}

// Records are lines of package audit. Answer is the answer.
type Records struct {
	Lines []byte `json:"lines"`
}

// Ended tells why the worker is going to end, unless it was told to.
type Ended struct {
	Error string `json:"error,omitempty"`
}

// Answer is the answer to Beside, with a file, or to Records; with an error where that failed.
type Answer struct {
	File  bool   `json:"file,omitempty"`
	Errno uint   `json:"errno,omitempty"` // the system's number of Error, if it is a system's
	Error string `json:"error,omitempty"`
}

// CheckBeside tells whether name is one that may be looked up beside an image: a bare file name.
func CheckBeside(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return protocolf("a file of %d bytes is asked for, which is no bare name", len(name))
	}
	return nil
}

func (l *Local) validate() (files int, err error) {
	files = l.count()
	if l.Mount != "" {
		files++
	}
	switch {
	case l.IdleTimeout < 0 || l.Appliances < 0 || files == 0:
		return 0, protocolf("a negative number, or nothing to serve by")
	case l.Rsync && !l.SSH:
		return 0, protocolf("rsync without SSH")
	case len(l.Mount) > maxSource:
		return 0, protocolf("a path of %d bytes", len(l.Mount))
	}
	if l.Rsync {
		files += 2
	}
	n := l.Credentials.size()
	for _, k := range l.DiskKeys {
		n += len(k.Disk) + len(k.Secret)
	}
	return files + 1, errors.Join(checkText(l.NoAppliance), checkCredentials(n))
}

func (i Images) validate() (files int, err error) {
	for _, k := range i {
		if len(k.Source) > maxSource || !utf8.ValidString(k.Source) {
			return 0, protocolf("a path of %d bytes", len(k.Source))
		}
		if err := checkFormat(k.Format); err != nil {
			return 0, err
		}
	}
	return len(i), nil
}

func (r *Ready) validate() error {
	switch {
	case r.Readable < 0 || r.Partial < 0 || r.Unreadable < 0:
		return protocolf("a negative number")
	case len(r.Summary) > MaxSummary:
		return protocolf("a summary of %d bytes", len(r.Summary))
	}
	return checkText(r.Example)
}

// local checks the messages of this file.
func (m *Message) local() (files int, err error) {
	switch {
	case m.Local != nil:
		return m.Local.validate()
	case m.Images != nil:
		return m.Images.validate()
	case m.Sealed != nil && len(m.Sealed.Weaker) > 16:
		return 0, protocolf("%d layers", len(m.Sealed.Weaker))
	case m.Beside != nil:
		return 0, CheckBeside(m.Beside.Name)
	case m.Ready != nil:
		return 0, m.Ready.validate()
	case m.Records != nil && len(m.Records.Lines) > MaxRecords:
		return 0, protocolf("%d bytes of records", len(m.Records.Lines))
	case m.Ended != nil:
		return 0, checkText(m.Ended.Error)
	case m.Answer != nil && m.Answer.File:
		return 1, nil
	case m.Answer != nil:
		return 0, checkText(m.Answer.Error)
	}
	return 0, nil
}
