package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"time"
)

// Version is the version of both documents. A reader refuses others: controller and agent are
// one release, and a half-upgraded pair must not guess.
const Version = 1

// Where a holder pod finds what the controller gives it. Secrets are mounted as folders, so that
// a change arrives while the pod runs.
const (
	DirSession  = "/etc/vmfr/session"  // ConfigMap: KeySession
	DirIdentity = "/etc/vmfr/identity" // Secret: KeyJoin, KeyHostKey
	DirSSH      = "/etc/vmfr/ssh"      // Secret: KeyUsername, KeyAuthorizedKeys, KeyTrustedCA
	DirBrowser  = "/etc/vmfr/browser"  // Secret: KeyUsername, KeyPassword
	DirTLS      = "/etc/vmfr/tls"      // Secret: KeyCertificate, KeyPrivateKey
	DirDiskKeys = "/etc/vmfr/diskkeys" // Secret: any keys, each a LUKS passphrase or key
	DirToken    = "/var/run/secrets/vmfr"
	FileToken   = "token"
	DirAgent    = "/run/vmfr" // the node agent's folder, read-only
	FileSocket  = "agent.sock"
	DirDevices  = "/dev/vmfr"   // block volumes: the disk's index in its backup
	DirVolumes  = "/vmfr/disks" // file-system volumes: the disk's index in its backup
)

// Keys of ConfigMaps and Secrets. Those of the credentials are OADP's.
const (
	KeySession        = "session.json"
	KeyReport         = "report.json"
	KeyJoin           = "joinKey" // JoinKeyBytes random bytes
	KeyHostKey        = "ssh_host_ed25519_key"
	KeyUsername       = "username"
	KeyAuthorizedKeys = "authorized_keys"
	KeyTrustedCA      = "trusted_user_ca"
	KeyPassword       = "password"
	KeyCertificate    = "tls.crt"
	KeyPrivateKey     = "tls.key"
	KeyCA             = "ca.crt"
)

// TokenAudience is what a holder's projected token is for.
const TokenAudience = "vmfr-agent"

// JoinKeyBytes is the length of a join key: nobody guesses 256 random bits.
const JoinKeyBytes = 32

// Ports that the front holder listens on.
const (
	PortSSH   = 2222
	PortHTTPS = 8443
)

// Limits of a Session. A ConfigMap holds 1 MiB; backups times disks stay far below it.
const (
	MaxSessionBytes = 512 << 10
	MaxBackups      = 128
	MaxDisks        = 64  // of one backup: virtio and SCSI guests have fewer
	MaxName         = 253 // a Kubernetes object's name
)

// Mode is how a volume is attached to its holder.
type Mode string

// The modes, as Kubernetes calls them.
const (
	Block      Mode = "Block"      // the volume is the disk: a device in DirDevices
	Filesystem Mode = "Filesystem" // the volume holds disk.img or an image file: a folder in DirVolumes
)

// Session is what to serve and to whom. One document serves all holders of a session; which
// part is a holder's own is told by its command line.
type Session struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // see ID
	// UID, Name and Namespace are the VirtualMachineFileRestore's.
	UID       string `json:"uid"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	VM        VM     `json:"vm"`

	Backups []Backup `json:"backups"`
	SSH     *SSH     `json:"ssh,omitempty"`
	Browser *Browser `json:"browser,omitempty"`
}

// VM is the virtual machine that the backups are of.
type VM struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// Backup is one backup's disks, in the order in which the guest sees them.
type Backup struct {
	Name      string    `json:"name"`
	Timestamp time.Time `json:"timestamp"` // when it was taken
	Disks     []Disk    `json:"disks"`
}

// Disk is one volume. Its index in Backup.Disks names its device or folder in the holder.
type Disk struct {
	Name   string `json:"name"` // of the PVC at backup time: its folder in the tree
	PVCUID string `json:"pvcUID,omitempty"`
	Mode   Mode   `json:"mode"`
	Bus    string `json:"bus,omitempty"` // virtio, scsi, sata, usb: decides the guest's device names
}

// SSH says that sftp, scp and rsync are served; its credentials are in DirSSH.
type SSH struct {
	IdleTimeout Duration `json:"idleTimeout,omitempty"` // zero: none
}

// Browser says that the HTTPS API and the browser are served; credentials are in DirBrowser.
type Browser struct{}

// Duration is a time.Duration in its own notation, such as "30m0s".
type Duration time.Duration

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration does, at least zero.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = fmt.Errorf("%s is negative", b)
	}
	*d = Duration(v)
	return err
}

// ID is a session's id: the SHA-256 of its join key in hex. Whoever holds the key belongs to the
// session; the id may be shown to anybody.
func ID(joinKey []byte) string {
	sum := sha256.Sum256(joinKey)
	return hex.EncodeToString(sum[:])
}

// Device is where a holder finds a block volume by its index in Backup.Disks.
func Device(index int) string { return path.Join(DirDevices, strconv.Itoa(index)) }

// Volume is where a holder finds a file-system volume by its index in Backup.Disks.
func Volume(index int) string { return path.Join(DirVolumes, strconv.Itoa(index)) }

// Decode reads and validates a Session. Errors tell the field.
func Decode(b []byte) (*Session, error) {
	s := new(Session)
	if err := decode(b, MaxSessionBytes, s); err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// decode reads exactly one JSON value of at most limit bytes without unknown fields.
func decode(b []byte, limit int, into any) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes exceed the limit of %d", len(b), limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// Validate checks everything that a reader relies on. Errors tell the field.
func (s *Session) Validate() error {
	switch {
	case s.Version != Version:
		return fmt.Errorf("session: version %d instead of %d: controller and agent are of different releases", s.Version, Version)
	case !isHex(s.ID, 2*sha256.Size):
		return fmt.Errorf("session: id %.80q is no SHA-256 in hex", s.ID)
	case s.SSH == nil && s.Browser == nil:
		return errors.New("session: neither ssh nor browser is set")
	case s.SSH != nil && s.SSH.IdleTimeout < 0:
		return fmt.Errorf("session: ssh.idleTimeout %s is negative", time.Duration(s.SSH.IdleTimeout))
	case len(s.Backups) == 0 || len(s.Backups) > MaxBackups:
		return fmt.Errorf("session: %d backups, not 1 to %d", len(s.Backups), MaxBackups)
	}
	for _, f := range [...]struct{ field, value string }{
		{"uid", s.UID}, {"name", s.Name}, {"namespace", s.Namespace}, {"vm.name", s.VM.Name}, {"vm.namespace", s.VM.Namespace},
	} {
		if err := checkName(f.value); err != nil {
			return fmt.Errorf("session: %s: %w", f.field, err)
		}
	}
	backups := map[string]bool{}
	for i := range s.Backups {
		b := &s.Backups[i]
		if err := b.validate(); err != nil {
			return fmt.Errorf("session: backups[%d]: %w", i, err)
		}
		if backups[b.Name] {
			return fmt.Errorf("session: backups[%d]: %q is there twice", i, b.Name)
		}
		backups[b.Name] = true
	}
	return nil
}

func (b *Backup) validate() error {
	switch err := checkName(b.Name); {
	case err != nil:
		return err
	case len(b.Disks) == 0 || len(b.Disks) > MaxDisks:
		return fmt.Errorf("%d disks, not 1 to %d", len(b.Disks), MaxDisks)
	case b.Timestamp.IsZero():
		return errors.New("no timestamp")
	}
	disks := map[string]bool{}
	for i, d := range b.Disks {
		if err := checkName(d.Name); err != nil {
			return fmt.Errorf("disks[%d]: %w", i, err)
		}
		switch {
		case disks[d.Name]:
			return fmt.Errorf("disks[%d]: %q is there twice", i, d.Name)
		case d.Mode != Block && d.Mode != Filesystem:
			return fmt.Errorf("disks[%d]: mode %.80q is neither Block nor Filesystem", i, d.Mode)
		case len(d.Bus) > 32 || len(d.PVCUID) > MaxName:
			return fmt.Errorf("disks[%d]: bus or pvcUID is too long", i)
		}
		disks[d.Name] = true
	}
	return nil
}

// checkName allows what Kubernetes allows as an object's name (RFC 1123 subdomain): such a name is one
// safe path component.
func checkName(s string) error {
	if s == "" || len(s) > MaxName {
		return fmt.Errorf("a name of %d bytes, not 1 to %d", len(s), MaxName)
	}
	for i, c := range []byte(s) {
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && (c != '-' && c != '.' || i == 0 || i == len(s)-1) {
			return fmt.Errorf("%.80q is no Kubernetes name", s)
		}
	}
	return nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
