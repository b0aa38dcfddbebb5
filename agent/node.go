package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vmfr/agent/jail"
	"vmfr/agent/supervisor"
	api "vmfr/api/session"
	"vmfr/internal/cli"
)

// nodeFlags are those of node.
type nodeFlags struct {
	dir, node, metrics, uids, rsync, root, audit string
	sessions, descriptors                        int
	patience                                     time.Duration
	appliances                                   applianceFlags
	log                                          cli.LogFlags
}

func nodeCommand() *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use:   "node",
		Short: "Serve the sessions of this node's holders (in a DaemonSet)",
		Long: "Listens on a unix socket for the holders of this node (vmfr-agent hold), checks their tokens with the\n" +
			"API server, and runs one worker in a sandbox for each session, which serves the holders' disks at the\n" +
			"holders' listeners. A worker that dies is started again; when this program ends, holders keep their\n" +
			"listeners and come back to the next one. It must be root, and it reads no byte of a disk itself.",
		Example: "  vmfr-agent node --node-name $(NODE_NAME) --listen-metrics :9808",
		Args:    cli.NoArguments,
		RunE:    func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.dir, "dir", api.DirAgent, "the `DIR` that holders find the socket in")
	flags.StringVar(&f.node, "node-name", os.Getenv("NODE_NAME"), "this node's `NAME`: tokens of pods on other nodes are refused (default $NODE_NAME)")
	flags.StringVar(&f.metrics, "listen-metrics", off, "`ADDRESS:PORT` for /metrics, /healthz and /readyz by HTTP; off: none")
	flags.StringVar(&f.uids, "worker-uids", "1900000000-1900000999", "the user ids of workers, `FIRST-LAST`: nothing else on the node may have them")
	flags.StringVar(&f.rsync, "rsync", rsyncAuto, "run this `PROGRAM` for rsync over SSH, in a jail; auto: rsync where it is installed; off: never")
	f.appliances.register(flags)
	flags.IntVar(&f.sessions, "max-sessions", supervisor.DefaultMaxSessions, "serve at most `N` sessions")
	flags.IntVar(&f.descriptors, "max-descriptors", supervisor.DefaultMaxDescriptors, "hold at most `N` disks and listeners")
	flags.DurationVar(&f.patience, "worker-patience", supervisor.DefaultPatience, "kill a worker that does not answer, also through its FUSE mount, for this `TIME`, and start it again")
	flags.StringVar(&f.audit, "audit-log", "-", "append a line of JSON for each login, listing and read of all sessions to `FILE`; -: standard output; off: none")
	flags.StringVar(&f.root, "root", "", "look at `DIR` as the root directory")
	_ = flags.MarkHidden("root") // for tests, outside of pods; the flag exists
	f.log.Register(flags)
	return c
}

func (f *nodeFlags) run(c *cobra.Command) error {
	if f.patience < time.Second {
		return cli.Usagef("--worker-patience %s: give a second at least", f.patience)
	}
	log, err := f.log.Logger(c.ErrOrStderr())
	if err != nil {
		return err
	}
	cfg := supervisor.Config{
		Dir: f.dir, Node: f.node, Version: version, Log: log, Worker: []string{"vmfr-agent", workCommand},
		MaxSessions: f.sessions, MaxDescriptors: f.descriptors, Patience: f.patience,
	}
	if cfg.FirstUID, cfg.UIDs, err = parseRange(f.uids); err != nil {
		return err
	}
	if cfg.Review, err = supervisor.NewReviewer(f.root); err != nil {
		return err
	}
	if f.rsync != off {
		program := f.rsync
		if program == rsyncAuto {
			program = "rsync"
		}
		cfg.Rsync = func(start func(*exec.Cmd) error) (supervisor.Jail, error) {
			j, err := jail.StartBy(start, program)
			return sharedJail{j}, err
		}
	}
	if err := f.appliances.apply(&cfg, log); err != nil {
		return err
	}
	if f.audit != off {
		if cfg.Audit, err = supervisor.OpenAuditLog(f.audit, f.node, log); err != nil {
			return err
		}
		defer func() {
			if err := cfg.Audit.Close(); err != nil {
				log.Error("the audit log is not complete", "err", err)
			}
		}()
	}
	s, err := supervisor.New(cfg)
	if err != nil {
		return err
	}
	if err := supervisor.Confine(); err != nil {
		return err
	}
	if f.metrics != off {
		stop, err := serveHTTP(f.metrics, s.Handler())
		if err != nil {
			return err
		}
		defer stop()
	}
	return s.Run(c.Context())
}

// sharedJail is a jail that a worker adopts.
type sharedJail struct{ *jail.Jail }

// Close gives up this process's part.
func (j sharedJail) Close() error { return j.Detach() }

// parseRange reads FIRST-LAST.
func parseRange(s string) (first, count int, err error) {
	a, b, ok := strings.Cut(s, "-")
	x, xerr := strconv.Atoi(a)
	y, yerr := strconv.Atoi(b)
	if !ok || xerr != nil || yerr != nil || y < x {
		return 0, 0, cli.Usagef("--worker-uids %q: write FIRST-LAST, such as 1900000000-1900000999", s)
	}
	return x, y - x + 1, nil
}

// serveHTTP serves h until stop.
func serveHTTP(address string, h http.Handler) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen-metrics: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			_ = s.Close()
		}
		<-done
	}, nil
}
