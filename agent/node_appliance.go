package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"vmfr/agent/guestfs"
	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/supervisor"
	"vmfr/internal/cli"
)

// Where the container image has what libguestfs' helper needs.
const (
	imageHelper    = "/usr/lib/vmfr/vmfr-agent-guestfs"
	imageAppliance = "/usr/lib/vmfr/appliance"
	helperName     = "vmfr-agent-guestfs" // beside this program
	guestfsAuto    = "auto"
)

// applianceFlags are for what only libguestfs reads, the same for all commands.
type applianceFlags struct {
	program string
	max     int
}

func (f *applianceFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.program, "guestfs", guestfsAuto, "read what no native engine does through libguestfs, with this `PROGRAM`: vmfr-agent built with it;\n"+
		"auto: "+imageHelper+" or "+helperName+" beside this program, where one is there; off: never.\n"+
		"For its jail the appliance is in $LIBGUESTFS_PATH (default "+imageAppliance+")")
	flags.IntVar(&f.max, "max-appliances", 0, "run at most `N` libguestfs appliances at a time, one for each backup (default: by memory, 1 to 4)")
}

func (f *applianceFlags) check() error {
	if f.max < 0 {
		return cli.Usagef("--max-appliances %d: give a positive number, or 0 for as many as the memory allows", f.max)
	}
	return nil
}

// helperProgram is libguestfs' helper: its program, and the folder of a fixed appliance, without which it
// cannot run in its jail (agent/guestfs/sandbox). Absolute paths.
type helperProgram struct{ program, appliance string }

// find finds the program; whether there is an appliance, check tells.
func (f *applianceFlags) find() (h helperProgram, err error) {
	switch program := f.program; {
	case program == off:
		return h, errors.New("it is turned off (--guestfs off)")
	case program != guestfsAuto:
		h.program = program
	case guestfs.Available():
		if h.program, err = os.Executable(); err != nil {
			return h, err
		}
	default:
		self, err := os.Executable()
		if err != nil {
			return h, err
		}
		beside := filepath.Join(filepath.Dir(self), helperName)
		for _, path := range []string{imageHelper, beside} {
			if _, err = os.Stat(path); err == nil {
				h.program = path
				break
			}
		}
		if h.program == "" {
			return h, fmt.Errorf("there is neither %s nor %s: %w", imageHelper, beside, fs.ErrNotExist)
		}
	}
	if h.program, err = filepath.Abs(h.program); err != nil {
		return h, err
	}
	h.appliance, err = filepath.Abs(cmp.Or(os.Getenv("LIBGUESTFS_PATH"), imageAppliance))
	if err == nil {
		_, err = os.Stat(h.program)
	}
	return h, err
}

// check tells whether the helper can run in its jail.
func (h helperProgram) check() error { return sandbox.Check(h.program, h.appliance) }

// apply tells the supervisor how helpers are started, or why there are none.
func (f *applianceFlags) apply(cfg *supervisor.Config, log *slog.Logger) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.program == off {
		cfg.NoAppliances = "libguestfs reads this, and is turned off on this node (--guestfs off)."
		return nil
	}
	h, err := f.find()
	if err == nil {
		err = h.check()
	}
	switch {
	case err == nil:
	case f.program != guestfsAuto:
		return fmt.Errorf("--guestfs: %w", err)
	default:
		log.Info("libguestfs is not used", "reason", err)
		cfg.NoAppliances = "libguestfs reads this, and is not installed with this node's agent: use the image that has it (the agent's log tells more)."
		return nil
	}
	a := &supervisor.Appliances{Program: h.program, Dir: h.appliance, Max: f.max}
	if a.Max == 0 {
		a.Max = sandbox.AppliancesFor(sandbox.Need(false), sandbox.AvailableMemory())
	}
	log.Info("libguestfs reads what no native engine does", "program", a.Program, "appliance", a.Dir, "maxAppliances", a.Max)
	cfg.Appliances = a
	return nil
}
