package main

import (
	"time"

	"github.com/spf13/pflag"

	"vmfr/internal/cli"
)

// timeouts bound every wait.
type timeouts struct {
	backup    time.Duration // of a discovery
	discovery time.Duration // the rest are of a file restore
	disks     time.Duration
	restore   time.Duration
	movement  time.Duration
	holder    time.Duration
	report    time.Duration
	cancel    time.Duration
}

// all are the flags, in the order of --help.
func (t *timeouts) all() []struct {
	name  string
	value *time.Duration
	byDef time.Duration
	usage string
} {
	return []struct {
		name  string
		value *time.Duration
		byDef time.Duration
		usage string
	}{
		{"backup-timeout", &t.backup, 5 * time.Minute, "for one backup's metadata, in a discovery"},
		{"discovery-timeout", &t.discovery, 2 * time.Hour, "for the discovery that a file restore refers to, from the file restore's creation"},
		{"disks-timeout", &t.disks, 10 * time.Minute, "for the metadata of all backups of a file restore"},
		{"restore-timeout", &t.restore, 4 * time.Hour, "for a Velero Restore, from its creation"},
		{"movement-timeout", &t.movement, time.Hour, "for Velero's data mover without progress"},
		{"holder-timeout", &t.holder, 15 * time.Minute, "for a holder's pod to start, once its volumes are there"},
		{"report-timeout", &t.report, 30 * time.Minute, "for the node's account of what is readable"},
		{"cancel-timeout", &t.cancel, 5 * time.Minute, "for data movers that are told to stop, at deletion"},
	}
}

func (t *timeouts) register(s *pflag.FlagSet) {
	for _, f := range t.all() {
		s.DurationVar(f.value, f.name, f.byDef, f.usage)
	}
}

func (t *timeouts) check() error {
	for _, f := range t.all() {
		if *f.value <= 0 {
			return cli.Usagef("--%s %s: use more than 0", f.name, *f.value)
		}
	}
	return nil
}
