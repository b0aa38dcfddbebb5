// Package guestfs is the engine for what no native engine reads: btrfs, exFAT, LUKS and
// BitLocker with a key, md RAID, thin LVM, rare features. It boots libguestfs' small Linux in a
// virtual machine and asks that for files.
//
//	worker process                                  helper process             appliance
//	  FS -> Appliance -> wire over a socket pair -> libguestfs -> virtio -> guestfsd, Linux
//	  extent.Reader <- nbd on a unix socket <---------- qemu <- its block device
//
// This package is the worker's half and needs neither cgo nor the library. The helper (package
// helper) is vmfr-agent, built with the tag guestfs, as `vmfr-agent appliance`: a child of this
// process, which Available tells whether it can be, or one that Options.Lend asks somebody else
// for. There is one helper for each backup, started at first use, stopped when nobody used it for
// a while, and started again when somebody does.
//
// What the appliance says is not trusted: lengths, names, types and counts are checked, every
// request has a time limit, and a helper that keeps to neither is killed; what was asked then
// fails, and the next request starts another one, after a pause that grows.
//
// Non-goals: holes. libguestfs cannot tell them, so a sparse file is read as data (zeros).
// Paths longer than 4,096 bytes cannot be reached through libguestfs.
package guestfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/guestfs/wire"
	"vmfr/agent/volume"
)

// Name is what METADATA.json calls this engine.
const Name = "libguestfs"

// DefaultIdle is when an appliance that nobody uses is stopped.
const DefaultIdle = 10 * time.Minute

// Key is a passphrase, or a key file's content, for encrypted volumes.
type Key struct {
	Disk   string // the Disk's name, or "<backup>/<disk>"; empty: tried on all
	Secret []byte // 1 to MaxKey bytes, as cryptsetup takes them: a newline is a part of it
}

// MaxKey bounds a key in bytes; a passphrase of cryptsetup's has at most 512.
const MaxKey = 4096

// Check tells what is wrong with a key.
func (k Key) Check() error {
	if len(k.Secret) == 0 || len(k.Secret) > MaxKey || bytes.IndexByte(k.Secret, 0) >= 0 {
		return fmt.Errorf("a key must have 1 to %d bytes and no zero byte, since libguestfs passes it on as text; add a passphrase to the volume for a binary key", MaxKey)
	}
	return nil
}

// Options are those of New. The zero value is usable where Available is true.
type Options struct {
	// Command starts the helper; nil: this program with the argument "appliance".
	Command []string
	// Dir is where each appliance has a directory of its own, removed when it ends; empty:
	// os.TempDir(). Directories that a killed process left there are removed, too.
	Dir string
	// CacheDir keeps the appliance's root file system, about 400 MB, which supermin makes from
	// the installed packages at first use; empty: /var/tmp for root, the user's cache directory else.
	CacheDir string
	Keys     []Key
	Idle     time.Duration // 0: DefaultIdle
	Max      int           // appliances at a time; 0: by memory, at most 4
	Log      *slog.Logger  // nil: nothing is logged

	// Lend asks another process for a helper for a backup of so many disks; nil: helpers are
	// children of this process. It says what it waits for, waits as long as it has to, within
	// ctx, and is called for one backup at a time. Command, Dir and CacheDir are of no use then, and
	// without Max the other process alone says how many there may be.
	Lend func(ctx context.Context, backup string, disks int, waiting func(string)) (*Helper, error)
	// KeySource is where keys come from, for people; empty: --key-file.
	KeySource string
	// BadKeys tell why some of the keys that were given are not among Keys.
	BadKeys []error

	limit func(*wire.Request) time.Duration // of tests; nil: limitOf
}

// Fallback implements engine.Fallback.
type Fallback struct {
	opts Options
	pool *pool
	kvm  kvm
}

var _ engine.Fallback = (*Fallback)(nil)

// New returns the engine and starts nothing. Errors: ErrUnavailable, or a wrong option.
func New(o Options) (*Fallback, error) {
	if o.KeySource == "" {
		o.KeySource = "--key-file"
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, k := range o.Keys {
		if err := k.Check(); err != nil {
			return nil, err
		}
	}
	if o.Lend != nil {
		return &Fallback{opts: o, pool: newPool(cmp.Or(o.Max, math.MaxInt))}, nil
	}
	if o.Command == nil {
		if !Available() {
			return nil, ErrUnavailable
		}
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("libguestfs: %w", err)
		}
		o.Command = []string{self, sandbox.Argument}
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if o.CacheDir == "" {
		o.CacheDir = defaultCache()
	}
	if o.CacheDir, err = filepath.Abs(o.CacheDir); err != nil {
		return nil, err
	}
	if o.Max <= 0 {
		o.Max = sandbox.AppliancesFor(o.need(), sandbox.AvailableMemory())
	}
	return &Fallback{opts: o, pool: newPool(o.Max)}, nil
}

// need is what one appliance takes, in bytes.
func (o *Options) need() int64 { return sandbox.Need(len(o.Keys) > 0) }

// defaultCache is libguestfs' own place for root. Another user's appliance there would be
// refused by libguestfs in the helper's user namespace, so users have theirs in their home.
func defaultCache() string {
	if os.Geteuid() != 0 {
		if d, err := os.UserCacheDir(); err == nil {
			return filepath.Join(d, "vmfr")
		}
	}
	return "/var/tmp"
}

// ErrUnavailable is New's error in a build without libguestfs.
var ErrUnavailable = errors.New("this build has no libguestfs; build with `make build GUESTFS=1`, or use the container image")

// Available tells whether this program was built with the tag guestfs.
func Available() bool { return available }

// Name implements engine.Fallback.
func (f *Fallback) Name() string { return Name }

// Backup implements engine.Fallback.
func (f *Fallback) Backup(name string, disks []volume.Disk) engine.Appliance {
	return newAppliance(f, name, disks)
}

// Spare stops the appliances that nobody uses right now, because others wait for their place.
func (f *Fallback) Spare() { f.pool.spare() }
