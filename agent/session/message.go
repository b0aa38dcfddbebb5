package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	api "vmfr/api/session"
)

// Version is that of the protocol. Other versions are refused: holder and agent are one release,
// and a holder that outlives its agent's upgrade is told so and started again by its controller.
const Version = 1

// Limits of a message.
const (
	// MaxBytes bounds the JSON of one message: a session's document as a JSON string of at most
	// twice its bytes, a token, and credentials of at most MaxCredentials, base64.
	MaxBytes = 2*api.MaxSessionBytes + MaxToken + MaxCredentials*4/3 + 64<<10
	// MaxFiles bounds the descriptors of one message: a backup's disks, or the listeners, which
	// are fewer. The kernel's limit is 253 (SCM_MAX_FD).
	MaxFiles = api.MaxDisks
	// MaxToken bounds a service account's token, in bytes; they have about 1.2 KiB.
	MaxToken = 16 << 10
	// MaxCredentials bounds all files of Credentials together, in bytes: a Secret's own limit.
	MaxCredentials = 1 << 20
	// MaxText bounds a reason or a name for people, in bytes.
	MaxText = 1024
)

// Message is one message: exactly one of its pointers is set.
type Message struct {
	// Holder to supervisor.
	Hello   *Hello   `json:"hello,omitempty"`
	Update  *Update  `json:"update,omitempty"`
	Closing *Closing `json:"closing,omitempty"`

	// Supervisor to holder.
	Accepted *Accepted `json:"accepted,omitempty"`
	Refused  *Refused  `json:"refused,omitempty"`
	Closed   *Closed   `json:"closed,omitempty"`

	// Supervisor to worker, in this order; Part once for each backup.
	Configure *Configure `json:"configure,omitempty"`
	Part      *Part      `json:"part,omitempty"`
	Run       *Run       `json:"run,omitempty"`
	Drain     *Drain     `json:"drain,omitempty"`

	// Supervisor to worker, once it runs.
	Ping   *Ping   `json:"ping,omitempty"`
	Helper *Helper `json:"helper,omitempty"`
	Spare  *Spare  `json:"spare,omitempty"`

	// Worker to supervisor.
	Stats     *Stats     `json:"stats,omitempty"`
	Appliance *Appliance `json:"appliance,omitempty"`
	Pong      *Pong      `json:"pong,omitempty"`

	// Worker to supervisor to holder: a Report as JSON.
	Report json.RawMessage `json:"report,omitempty"`

	// Between vmfr-agent serve and its worker, see local.go.
	Local   *Local   `json:"local,omitempty"`
	Images  Images   `json:"images,omitempty"`
	Answer  *Answer  `json:"answer,omitempty"`
	Sealed  *Sealed  `json:"sealed,omitempty"`
	Beside  *Beside  `json:"beside,omitempty"`
	Opened  *Opened  `json:"opened,omitempty"`
	Ready   *Ready   `json:"ready,omitempty"`
	Records *Records `json:"records,omitempty"`
	Ended   *Ended   `json:"ended,omitempty"`

	// Files come with Hello, Configure, Part, Helper, Local, Images and Answer, in the order that these tell.
	Files []*os.File `json:"-"`
}

// Close closes the files that came with m, as CloseFiles does.
func (m *Message) Close() {
	refuse(m.Files)
	m.Files = nil
}

// Hello is a holder's first message. Files are the listeners, then the disks that have no error.
type Hello struct {
	Token     string `json:"token"`   // of its service account, audience api.TokenAudience
	JoinKey   []byte `json:"joinKey"` // of its session
	Session   string `json:"session"` // the document, as it was found
	Part      Part   `json:"part"`
	Listeners `json:"listeners"`

	Credentials Credentials `json:"credentials"` // the front's
}

// Part is what one holder brings: the front end's listeners, or one backup's disks.
type Part struct {
	Backup string `json:"backup,omitempty"` // empty: the front
	Disks  []Disk `json:"disks,omitempty"`  // all of the backup, in the document's order
}

// Name is the part's name for people and logs.
func (p Part) Name() string {
	if p.Backup == "" {
		return "front"
	}
	return p.Backup
}

// Disk is one disk of a Part. Where Error is empty, it has a descriptor.
type Disk struct {
	Source string `json:"source,omitempty"` // for people: where the image was found
	Format string `json:"format,omitempty"` // raw, qcow2; empty: detect it by content
	Error  string `json:"error,omitempty"`  // why it could not be opened, and what to do
}

// Listeners tells which descriptors of a message are listening sockets: SSH's before HTTPS'.
type Listeners struct {
	SSH   bool `json:"ssh,omitempty"`
	HTTPS bool `json:"https,omitempty"`
}

func (l Listeners) count() int {
	n := 0
	for _, b := range [...]bool{l.SSH, l.HTTPS} {
		if b {
			n++
		}
	}
	return n
}

// Credentials are the files that a front holder found, as they are; a nil one was not there.
type Credentials struct {
	HostKey        []byte            `json:"hostKey,omitempty"`
	SSHUser        []byte            `json:"sshUser,omitempty"`
	AuthorizedKeys []byte            `json:"authorizedKeys,omitempty"`
	TrustedCA      []byte            `json:"trustedCA,omitempty"`
	BrowserUser    []byte            `json:"browserUser,omitempty"`
	Password       []byte            `json:"password,omitempty"`
	Certificate    []byte            `json:"certificate,omitempty"`
	PrivateKey     []byte            `json:"privateKey,omitempty"`
	DiskKeys       map[string][]byte `json:"diskKeys,omitempty"`
}

func (c *Credentials) size() int {
	n := 0
	for _, b := range [...][]byte{c.HostKey, c.SSHUser, c.AuthorizedKeys, c.TrustedCA, c.BrowserUser, c.Password, c.Certificate, c.PrivateKey} {
		n += len(b)
	}
	for k, b := range c.DiskKeys {
		n += len(k) + len(b)
	}
	return n
}

// Update is a front holder's new credentials.
type Update struct {
	Credentials Credentials `json:"credentials"`
}

// Closing asks the supervisor to close the holder's descriptors. Closed is the answer.
type Closing struct{}

// Accepted tells a holder that its part belongs to the session.
type Accepted struct {
	ID string `json:"id"`
}

// Refused tells a holder why its part is not taken. The connection ends with it.
type Refused struct {
	Reason string `json:"reason"`
}

// Closed tells a holder that none of its descriptors is open any more. Where it did not ask, the
// reason tells whether it should connect again at once.
type Closed struct {
	Reason string `json:"reason,omitempty"`
}

// Configure is a worker's first message. Files are the listeners.
type Configure struct {
	Session     json.RawMessage `json:"session"`
	Node        string          `json:"node,omitempty"`
	Version     string          `json:"version"`
	Restarts    int             `json:"restarts"` // of the worker before this one
	Grace       time.Duration   `json:"grace"`    // for transfers after Drain
	Listeners   `json:"listeners"`
	Credentials Credentials `json:"credentials"`
	// Missing tells, for backups without a Part, what is waited for.
	Missing map[string]string `json:"missing,omitempty"`
	// Weaker are the layers of the sandbox that could not be set up.
	Weaker []string `json:"weaker,omitempty"`
	// Rsync tells that the two files after the listeners are the rsync jail's socket and its /dev/fuse.
	Rsync bool `json:"rsync,omitempty"`
	// Audit tells that the last file, after those, is a pipe for lines of package audit.
	Audit bool `json:"audit,omitempty"`
	// NoAppliance is why no Appliance can be had, and what to do; empty: it can be asked for.
	NoAppliance string `json:"noAppliance,omitempty"`
}

// Run tells the worker that it has everything.
type Run struct{}

// Drain tells the worker to accept no more connections and to end when transfers have.
type Drain struct{}

// Ping asks a worker whether it can still do its work; it answers with a Pong.
type Ping struct{}

// Pong tells that the worker has just read its own tree, directly and through the mount that rsync
// uses. Error is what did not work.
type Pong struct {
	Error string `json:"error,omitempty"`
}

// Stats are a worker's counters, which only grow but for Connections, OpenFiles and what tells of storage.
type Stats struct {
	ReadBytes   uint64 `json:"readBytes"`
	Operations  uint64 `json:"operations"`
	Errors      uint64 `json:"errors"`
	Connections int64  `json:"connections"`
	OpenFiles   int64  `json:"openFiles"`

	// Latency counts operations by how long they took, in the classes of package latency, and
	// LatencyNanos is the sum.
	Latency      []uint64 `json:"latency,omitempty"`
	LatencyNanos uint64   `json:"latencyNanos,omitempty"`

	// StorageWait is how long the oldest read has waited that storage has not answered, and Stalled how
	// many disks' storage does not answer.
	StorageWait time.Duration `json:"storageWait,omitempty"`
	Stalled     int           `json:"stalled,omitempty"`
}

// maxClasses bounds Stats.Latency.
const maxClasses = 32

// ErrProtocol is wrapped by the errors of what the other end should not have sent.
var ErrProtocol = errors.New("protocol error")

func protocolf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// validate checks the sizes and counts of a message with n descriptors.
func (m *Message) validate(n int) error {
	set, want := 0, 0
	for _, is := range [...]bool{m.Hello != nil, m.Update != nil, m.Closing != nil, m.Accepted != nil, m.Refused != nil, m.Closed != nil,
		m.Configure != nil, m.Part != nil, m.Run != nil, m.Drain != nil, m.Ping != nil, m.Stats != nil, m.Pong != nil, m.Report != nil,
		m.Appliance != nil, m.Helper != nil, m.Spare != nil,
		m.Local != nil, m.Images != nil, m.Answer != nil, m.Sealed != nil, m.Beside != nil, m.Opened != nil, m.Ready != nil, m.Records != nil, m.Ended != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return protocolf("a message of %d kinds", set)
	}
	var err error
	switch {
	case m.Hello != nil:
		want, err = m.Hello.validate()
	case m.Update != nil:
		err = m.Update.Credentials.validate()
	case m.Configure != nil:
		want, err = m.Configure.validate()
	case m.Part != nil:
		want, err = m.Part.validate()
	case m.Appliance != nil:
		err = m.Appliance.validate()
	case m.Helper != nil:
		want, err = m.Helper.validate()
	case m.Accepted != nil:
		err = checkText(m.Accepted.ID)
	case m.Refused != nil:
		err = checkText(m.Refused.Reason)
	case m.Closed != nil:
		err = checkText(m.Closed.Reason)
	case m.Pong != nil:
		err = checkText(m.Pong.Error)
	case m.Stats != nil && len(m.Stats.Latency) > maxClasses:
		err = protocolf("%d classes of latency exceed the limit of %d", len(m.Stats.Latency), maxClasses)
	case m.Report != nil && len(m.Report) > api.MaxReportBytes:
		err = protocolf("a report of %d bytes exceeds the limit of %d", len(m.Report), api.MaxReportBytes)
	default:
		want, err = m.local()
	}
	if err == nil && want != n {
		err = protocolf("%d descriptors came, %d were announced", n, want)
	}
	return err
}

func (h *Hello) validate() (files int, err error) {
	switch {
	case h.Token == "" || len(h.Token) > MaxToken:
		return 0, protocolf("a token of %d bytes, not 1 to %d", len(h.Token), MaxToken)
	case len(h.JoinKey) != api.JoinKeyBytes:
		return 0, protocolf("a join key of %d bytes instead of %d", len(h.JoinKey), api.JoinKeyBytes)
	case len(h.Session) > api.MaxSessionBytes:
		return 0, protocolf("a session document of %d bytes exceeds the limit of %d", len(h.Session), api.MaxSessionBytes)
	case h.Part.Backup != "" && (h.Listeners.count() > 0 || h.Credentials.size() > 0):
		return 0, protocolf("listeners or credentials from the holder of a backup")
	case h.Part.Backup == "" && h.Listeners.count() == 0:
		return 0, protocolf("a front without listeners")
	}
	n, err := h.Part.validate()
	return n + h.Listeners.count(), errors.Join(err, h.Credentials.validate())
}

func (p *Part) validate() (files int, err error) {
	switch {
	case len(p.Backup) > api.MaxName:
		return 0, protocolf("a backup's name of %d bytes", len(p.Backup))
	case p.Backup == "" && len(p.Disks) > 0:
		return 0, protocolf("disks without a backup")
	case p.Backup != "" && (len(p.Disks) == 0 || len(p.Disks) > api.MaxDisks):
		return 0, protocolf("%d disks, not 1 to %d", len(p.Disks), api.MaxDisks)
	}
	for _, d := range p.Disks {
		if err := errors.Join(checkFormat(d.Format), checkText(d.Source), checkText(d.Error)); err != nil {
			return 0, err
		}
		if d.Error == "" {
			files++
		}
	}
	return files, nil
}

func (c *Configure) validate() (files int, err error) {
	if c.Grace < 0 || c.Restarts < 0 {
		return 0, protocolf("a negative number")
	}
	files = c.Listeners.count()
	if c.Rsync {
		files += 2
	}
	if c.Audit {
		files++
	}
	return files, errors.Join(checkText(c.NoAppliance), c.Credentials.validate())
}

func (c *Credentials) validate() error { return checkCredentials(c.size()) }

func checkCredentials(n int) error {
	if n > MaxCredentials {
		return protocolf("credentials of %d bytes exceed the limit of %d", n, MaxCredentials)
	}
	return nil
}

func checkFormat(s string) error {
	if s != "" && s != "raw" && s != "qcow2" {
		return protocolf("format %.20q is neither raw nor qcow2", s)
	}
	return nil
}

// checkText keeps what people will read in a log short.
func checkText(s string) error {
	if len(s) > MaxText || !utf8.ValidString(s) {
		return protocolf("a text of %d bytes, at most %d of UTF-8 are allowed", len(s), MaxText)
	}
	return nil
}
