package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"vmfr/agent/engine"
	"vmfr/agent/guestfs"
	"vmfr/agent/guestfs/sandbox"
	"vmfr/internal/cli"
)

// fallbackFlags are those of the engine that reads what no native one does.
type fallbackFlags struct {
	applianceFlags
	keyFiles []string
}

func (f *fallbackFlags) register(flags *pflag.FlagSet) {
	f.applianceFlags.register(flags)
	flags.StringArrayVar(&f.keyFiles, "key-file", nil, "the passphrase of an encrypted volume (LUKS, BitLocker), `[DISK=]FILE` (mode 0600); repeatable")
}

// fallbackHelp explains them.
const fallbackHelp = `What no native engine reads (btrfs, exFAT, LUKS, BitLocker, RAID, thin volumes) is read through libguestfs, which
  boots a small virtual machine for a backup when somebody opens such a folder. It needs the program
  vmfr-agent-guestfs (see --guestfs), about 900 MiB of memory and some seconds with KVM, up to a minute without.
  --key-file gives passphrases; DISK (or BACKUP/DISK) says which disk's, else all are tried on all.`

// fallback is what the flags come to.
type fallback struct {
	helperProgram     // where none is empty
	max           int // appliances at a time; 0: by memory
	keys          []guestfs.Key
	none          string // why there is none, and what to do
	wanted        bool   // the user has asked for it
}

// open finds what is needed, and starts nothing.
func (f *fallbackFlags) open(has func(backup, disk string) bool, names []string, log *slog.Logger) (*fallback, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	o := &fallback{max: f.max, wanted: f.program != guestfsAuto || len(f.keyFiles) > 0}
	var err error
	switch o.helperProgram, err = f.find(); {
	case f.program == off:
		o.none = "libguestfs reads this, and is turned off (--guestfs off)."
	case err != nil && f.program != guestfsAuto:
		return nil, fmt.Errorf("--guestfs: %w", err)
	case err != nil:
		log.Debug("libguestfs is not used", "reason", err)
		o.none = "libguestfs reads this, for which " + helperName + " must lie beside vmfr-agent (`make build GUESTFS=1` builds both), or use the container image."
	}
	if o.none != "" && len(f.keyFiles) > 0 {
		return nil, cli.Usagef("--key-file: %s", strings.TrimSuffix(o.none, "."))
	}
	for _, arg := range f.keyFiles {
		keys, err := readKeys(arg, has, names)
		if err != nil {
			return nil, err
		}
		o.keys = append(o.keys, keys...)
	}
	return o, nil
}

// atOnce is how many appliances may run at a time.
func (f *fallback) atOnce() int {
	if f.max > 0 {
		return f.max
	}
	return sandbox.AppliancesFor(sandbox.Need(len(f.keys) > 0), sandbox.AvailableMemory())
}

// engine is for a command that reads the images itself: helpers are its children. Nil where there is none.
func (f *fallback) engine(log *slog.Logger) (engine.Fallback, error) {
	if f.none != "" {
		return nil, nil
	}
	e, err := guestfs.New(guestfs.Options{Command: []string{f.program, sandbox.Argument}, Keys: f.keys, Max: f.max, Log: log})
	if err != nil {
		return nil, err // not e: a nil pointer in an interface is not nil
	}
	return e, nil
}

// keyVariants are the keys that a file's content may stand for. A newline at its end is tried
// without and with: editors add one, and cryptsetup takes it for a part of the key.
func keyVariants(disk string, b []byte) []guestfs.Key {
	if trimmed := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")); len(trimmed) < len(b) {
		return []guestfs.Key{{Disk: disk, Secret: trimmed}, {Disk: disk, Secret: b}}
	}
	return []guestfs.Key{{Disk: disk, Secret: b}}
}

// readKeys reads the file of a --key-file.
func readKeys(arg string, has func(backup, disk string) bool, names []string) ([]guestfs.Key, error) {
	disk, path, named := strings.Cut(arg, "=")
	if !named {
		disk, path = "", arg
	}
	if disk != "" && !knownDisk(disk, has, names) {
		return nil, cli.Usagef("--key-file %q: there is no disk %q; write DISK=FILE or BACKUP/DISK=FILE, and =FILE for a path with '='", arg, disk)
	}
	b, err := readSecret(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; make it, with mode 0600", err)
		}
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	keys := keyVariants(disk, b)
	for _, k := range keys {
		if err := k.Check(); err != nil {
			return nil, fmt.Errorf("--key-file %s: %w", path, err)
		}
	}
	return keys, nil
}

// knownDisk tells whether a disk's name, alone or with its backup's, is one of those opened.
func knownDisk(name string, has func(backup, disk string) bool, backups []string) bool {
	if backup, disk, ok := strings.Cut(name, "/"); ok {
		return has(backup, disk)
	}
	for _, b := range backups {
		if has(b, name) {
			return true
		}
	}
	return false
}
