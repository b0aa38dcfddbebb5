package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

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

// applianceFlags are node's for what only libguestfs reads.
type applianceFlags struct {
	program string
	max     int
}

func (f *applianceFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.program, "guestfs", guestfsAuto, "read what no native engine does through libguestfs, with this `PROGRAM`: vmfr-agent built with it;\n"+
		"auto: "+imageHelper+" or "+helperName+" beside this program, where one is there; off: never.\n"+
		"The appliance is in $LIBGUESTFS_PATH (default "+imageAppliance+")")
	flags.IntVar(&f.max, "max-appliances", 0, "run at most `N` libguestfs appliances at a time, one for each backup (default: by memory, 1 to 4)")
}

// apply tells the supervisor how helpers are started, or why there are none.
func (f *applianceFlags) apply(cfg *supervisor.Config, log *slog.Logger) error {
	if f.max < 0 {
		return cli.Usagef("--max-appliances %d: give a positive number, or 0 for as many as the memory allows", f.max)
	}
	if f.program == off {
		cfg.NoAppliances = "libguestfs reads this, and is turned off on this node (--guestfs off)."
		return nil
	}
	a, err := f.find()
	switch {
	case err == nil:
	case f.program != guestfsAuto:
		return fmt.Errorf("--guestfs: %w", err)
	default:
		log.Info("libguestfs is not used", "reason", err)
		cfg.NoAppliances = "libguestfs reads this, and is not installed with this node's agent: use the image that has it (the agent's log tells more)."
		return nil
	}
	if a.Max = f.max; a.Max == 0 {
		a.Max = sandbox.AppliancesFor(sandbox.Need(false), sandbox.AvailableMemory())
	}
	log.Info("libguestfs reads what no native engine does", "program", a.Program, "appliance", a.Dir, "maxAppliances", a.Max)
	cfg.Appliances = a
	return nil
}

// find returns the program and the appliance, if both are there.
func (f *applianceFlags) find() (*supervisor.Appliances, error) {
	a := &supervisor.Appliances{Program: f.program, Dir: imageAppliance}
	if dir := os.Getenv("LIBGUESTFS_PATH"); dir != "" {
		a.Dir = dir
	}
	if f.program == guestfsAuto {
		a.Program = imageHelper
		if _, err := os.Stat(a.Program); err != nil {
			self, serr := os.Executable()
			if serr != nil {
				return nil, serr
			}
			beside := filepath.Join(filepath.Dir(self), helperName)
			if _, serr := os.Stat(beside); serr != nil {
				return nil, err
			}
			a.Program = beside
		}
	}
	for _, path := range []*string{&a.Program, &a.Dir} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = abs
	}
	return a, sandbox.Check(a.Program, a.Dir)
}
