package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"vmfr/agent/audit"
	"vmfr/agent/jail"
	"vmfr/internal/cli"
	"vmfr/sshd"
)

// sshFlags are those of serve that only the SSH server has.
type sshFlags struct {
	trustedUserCA string // file
	idleTimeout   time.Duration
	rsync         string
}

// rsyncAuto is the value of --rsync that offers it where that is possible.
const rsyncAuto = "auto"

func (s *sshFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&s.trustedUserCA, "trusted-user-ca", "", "`FILE` of public keys of authorities whose user certificates may log in")
	flags.DurationVar(&s.idleTimeout, "ssh-idle-timeout", 0, "close an SSH connection on which nothing happens for this `DURATION`; 0: never")
	flags.StringVar(&s.rsync, "rsync", rsyncAuto, "run this `PROGRAM` for rsync over SSH, in a jail (needs root); auto: rsync where it is possible; off: never")
}

func (s *sshFlags) check() error {
	if s.idleTimeout < 0 {
		return cli.Usagef("--ssh-idle-timeout %s: a duration such as 30m is needed", s.idleTimeout)
	}
	return nil
}

// jail starts the jail for rsync, or says why there is none.
func (s *sshFlags) jail(log *slog.Logger) *jail.Jail {
	program := s.rsync
	switch program {
	case off:
		return nil
	case rsyncAuto:
		program = "rsync"
	}
	j, err := jail.Start(program)
	if err != nil {
		level := slog.LevelWarn
		if s.rsync == rsyncAuto && os.Geteuid() != 0 {
			level = slog.LevelInfo // not something that such a user could change
		}
		log.Log(context.Background(), level, "rsync over SSH is refused; sftp, scp and sshfs work", "err", err)
		return nil
	}
	return j
}

// authorities reads --trusted-user-ca; nil where it is not given.
func (s *sshFlags) authorities() ([]byte, error) {
	if s.trustedUserCA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(s.trustedUserCA)
	if err != nil {
		return nil, fmt.Errorf("--trusted-user-ca: %w", err)
	}
	if _, err := sshd.ParseTrustedUserCAs(b); err != nil {
		return nil, fmt.Errorf("--trusted-user-ca %s: %w", s.trustedUserCA, err)
	}
	return b, nil
}

// readAuthorizedKeys reads --authorized-keys and logs the keys that are not used.
func readAuthorizedKeys(file string, log *slog.Logger) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--authorized-keys: %w", err)
	}
	_, refused, err := sshd.ParseAuthorizedKeys(b)
	if err != nil {
		return nil, fmt.Errorf("--authorized-keys %s: %w", file, err)
	}
	for _, r := range refused {
		log.Warn("a key was refused", "file", file, "err", r)
	}
	return b, nil
}

// openAudit opens --audit-log; nil where it is not given.
func (f *serveFlags) openAudit() (*os.File, error) {
	if f.auditLog == "" {
		return nil, nil
	}
	if f.auditLog == "-" && f.json {
		return nil, cli.Usagef("--audit-log -: with --json, standard output is for one line; give a file")
	}
	file, err := audit.OpenFile(f.auditLog)
	if err != nil {
		return nil, fmt.Errorf("--audit-log: %w", errors.Unwrap(err))
	}
	return file, nil
}

func closeAudit(l *audit.Log, log *slog.Logger) {
	if err := l.Close(); err != nil {
		log.Error("the end of the audit log may be missing", "err", err)
	}
}
