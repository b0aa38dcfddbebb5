package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"vmfr/agent/holder"
	"vmfr/agent/incluster"
	"vmfr/internal/cli"
)

// holdFlags are those of hold.
type holdFlags struct {
	front, check           bool
	backup, root           string
	listenSSH, listenHTTPS string
	reread                 time.Duration
	log                    cli.LogFlags
}

func holdCommand() *cobra.Command {
	var f holdFlags
	c := &cobra.Command{
		Use:   "hold --front | hold --backup NAME",
		Short: "Lend a session's volumes and listeners to the node's agent (in a pod)",
		Long: "Opens the disks of one backup of a session, or the sockets that its clients connect to, hands them\n" +
			"to the agent of this node (vmfr-agent node) over its unix socket, and stays: the session lasts as long\n" +
			"as its holders do. It reads no byte of a disk. The controller starts it in pods and mounts what it needs.\n\n" +
			"It never gives up connecting, and tells in its log what it waits for. Told to end, it ends when the agent\n" +
			"has closed the disks, too. With --check it only asks the holder that runs in this pod whether the agent\n" +
			"serves its part (exit code 0) or what it waits for (1): a pod's readiness probe.",
		Example: "  vmfr-agent hold --front\n" +
			"  vmfr-agent hold --backup nightly-0412\n" +
			"  vmfr-agent hold --front --check",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.BoolVar(&f.front, "front", false, "hold the session's listeners")
	flags.StringVar(&f.backup, "backup", "", "hold the disks of the backup `NAME`")
	flags.BoolVar(&f.check, "check", false, "ask the holder in this pod whether its part is served")
	flags.StringVar(&f.root, "root", "", "look at `DIR` as the root directory")
	flags.StringVar(&f.listenSSH, "listen-ssh", "", "`ADDRESS:PORT` instead of the pod's")
	flags.StringVar(&f.listenHTTPS, "listen-https", "", "`ADDRESS:PORT` instead of the pod's")
	flags.DurationVar(&f.reread, "reread", holder.DefaultReread, "read mounted documents again after this `DURATION`")
	for _, name := range []string{"root", "listen-ssh", "listen-https", "reread"} {
		_ = flags.MarkHidden(name) // for tests, outside of pods; the flag exists
	}
	f.log.Register(flags)
	return c
}

func (f *holdFlags) run(c *cobra.Command) error {
	if f.front == (f.backup != "") {
		return cli.Usagef("give --front or --backup NAME")
	}
	if f.check {
		return holder.Check(c.Context(), f.root, f.backup)
	}
	log, err := f.log.Logger(c.ErrOrStderr())
	if err != nil {
		return err
	}
	cfg := holder.Config{Backup: f.backup, Root: f.root, Log: log, ListenSSH: f.listenSSH, ListenHTTPS: f.listenHTTPS, Reread: f.reread}
	if f.front {
		switch cfg.Reporter, err = holder.NewReporter(f.root); {
		case errors.Is(err, incluster.ErrNoCluster):
			log.Warn("reports are kept nowhere", "err", err)
			cfg.Reporter = nil
		case err != nil:
			return err
		}
	}
	return holder.Run(c.Context(), cfg)
}
