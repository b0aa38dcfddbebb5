package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/internal/cli"
)

func mountCommand() *cobra.Command {
	var disks diskFlags
	var log cli.LogFlags
	var m mountFlags
	c := &cobra.Command{
		Use:   "mount [--disk BACKUP/DISK=PATH]... [--dir DIR] [--sample] DIR",
		Short: "Mount the files of disk images by FUSE, in the foreground",
		Long: "Mounts the files of disk images at DIR, an empty folder, and stays in the foreground; it prints\n" +
			"one line when the mount is ready. SIGINT or SIGTERM unmounts, and when somebody else unmounts\n" +
			"(umount DIR, fusermount3 -u DIR), the command ends.\n\n" + diskHelp,
		Example: "  vmfr-agent mount --disk nightly-0412/rootdisk=disk.qcow2 /mnt\n" +
			"  vmfr-agent mount --dir /backups --allow-other --default-permissions /mnt",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("one folder to mount at is needed, such as /mnt; see %s --help", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			log, err := log.Logger(c.ErrOrStderr())
			if err != nil {
				return err
			}
			opened, err := disks.open(log)
			if err != nil {
				return err
			}
			defer opened.close()
			worker.LimitMemory(opened.count)
			m.dir = args[0]
			cfg, err := opened.config(log)
			if err != nil {
				return err
			}
			cfg.Mount = m.config()
			cfg.Ready = func(t *tree.Tree) error {
				readable, partial, unreadable := tree.Summary(t.Backups())
				_, err := fmt.Fprintf(c.OutOrStdout(), "mounted at %s: %d readable, %d partly readable, %d unreadable disks; README.txt there tells more\n",
					shellQuote(filepath.Clean(m.dir)), readable, partial, unreadable)
				return err
			}
			return worker.Run(c.Context(), cfg)
		},
	}
	c.Flags().SortFlags = false
	disks.register(c.Flags())
	m.register(c.Flags())
	log.Register(c.Flags())
	return c
}
