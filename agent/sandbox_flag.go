package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"vmfr/agent/audit"
	"vmfr/internal/cli"
)

// sandboxFlag says whether images are read in a worker's sandbox (agent/sandbox).
type sandboxFlag string

const (
	sandboxAuto sandboxFlag = "auto"
	sandboxOn   sandboxFlag = "on"
	sandboxOff  sandboxFlag = "off"
)

func (s *sandboxFlag) register(flags *pflag.FlagSet) {
	flags.StringVar((*string)(s), "sandbox", string(sandboxAuto),
		"read images in a process that sees nothing of this machine (needs root): `auto|on|off`; auto: where it is possible")
}

func (s sandboxFlag) check() error {
	switch s {
	case sandboxAuto, sandboxOn, sandboxOff:
		return nil
	}
	return cli.Usagef("--sandbox %q: use auto, on or off", string(s))
}

// run serves s in a sandbox or, where that may be, in this process.
func (s sandboxFlag) run(ctx context.Context, v *serving) error {
	var b *sandboxed
	var none errNoSandbox
	if s != sandboxOff {
		var err error
		b, err = newSandboxed(v) // in the time that it takes to start, keys are made
		switch {
		case err == nil:
			defer b.close()
		case !errors.As(err, &none):
			v.closeRecords()
			return err
		}
	}
	err := v.prepare()
	if err == nil && b != nil {
		err = b.run(ctx)
	}
	if (err != nil || b != nil) && !errors.As(err, &none) {
		v.closeRecords()
		return err
	}
	if s == sandboxOn {
		v.closeRecords()
		return fmt.Errorf("--sandbox on: %w", none)
	}
	v.sandbox.Missing = []string{"--sandbox off"}
	if none.why != nil {
		v.sandbox.Missing = []string{none.why.Error()}
	}
	return v.here(ctx, func() {
		level := slog.LevelWarn
		if os.Geteuid() != 0 {
			level = slog.LevelInfo // not something that such a user could change
		}
		if none.why != nil {
			v.log.Log(ctx, level, "images are read without a sandbox, with the rights of the user who started this", "err", none.why)
		}
	})
}

// closeRecords closes the audit log of a worker in another process.
func (s *serving) closeRecords() {
	if s.records == nil {
		return
	}
	if err := audit.CloseFile(s.records); err != nil {
		s.log.Error("the end of the audit log may be missing", "err", err)
	}
}
