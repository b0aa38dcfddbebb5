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
	"vmfr/internal/cli"
)

// fallbackFlags are those of the engine that reads what no native one does.
type fallbackFlags struct {
	keyFiles []string
	off      bool
	max      int
}

func (f *fallbackFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.keyFiles, "key-file", nil, "the passphrase of an encrypted volume (LUKS, BitLocker), `[DISK=]FILE` (mode 0600); repeatable")
	flags.IntVar(&f.max, "max-appliances", 0, "run at most `N` libguestfs appliances at a time, one for each backup (default: by memory, 1 to 4)")
}

// registerOff is for the commands that serve; inspect has a --no-fallback of its own, which
// starts nothing and still tells what is left to libguestfs.
func (f *fallbackFlags) registerOff(flags *pflag.FlagSet) {
	flags.BoolVar(&f.off, "no-fallback", false, "read with the native engines only, never through libguestfs")
}

// fallbackHelp explains them.
const fallbackHelp = `What no native engine reads (btrfs, exFAT, LUKS, BitLocker, RAID, thin volumes) is read through libguestfs, which
  boots a small virtual machine for a backup when somebody opens such a folder. It needs a build with
  libguestfs, about 900 MiB of memory and some seconds with KVM, up to a minute without.
  --key-file gives passphrases; DISK (or BACKUP/DISK) says which disk's, else all are tried on all.`

// errNoFallbackKeys refuses keys that nothing would use.
var errNoFallbackKeys = errors.New("--key-file: encrypted volumes are read through libguestfs, which --no-fallback turns off")

// open returns the engine, or nil where this build has none or it is not wanted.
func (f *fallbackFlags) open(has func(backup, disk string) bool, names []string, log *slog.Logger) (engine.Fallback, error) {
	if f.max < 0 {
		return nil, cli.Usagef("--max-appliances %d: give a positive number, or 0 for as many as the memory allows", f.max)
	}
	if f.off || !guestfs.Available() {
		switch {
		case len(f.keyFiles) == 0:
			return nil, nil
		case f.off:
			return nil, cli.UsageError{Err: errNoFallbackKeys}
		}
		return nil, cli.Usagef("--key-file: %w", guestfs.ErrUnavailable)
	}
	o := guestfs.Options{Max: f.max, Log: log}
	for _, arg := range f.keyFiles {
		keys, err := readKeys(arg, has, names)
		if err != nil {
			return nil, err
		}
		o.Keys = append(o.Keys, keys...)
	}
	fb, err := guestfs.New(o)
	if err != nil {
		return nil, err // not fb: a nil pointer in an interface is not nil
	}
	return fb, nil
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
