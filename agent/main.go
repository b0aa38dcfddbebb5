// Command vmfr-agent serves the files of virtual machine backups, read-only.
//
//	serve    disk images by SFTP, HTTPS and FUSE
//	mount    disk images by FUSE only, in the foreground
//	inspect  what is on disk images, and whether all of it can be read
//	node     serves the sessions of a node's holders, in a DaemonSet
//	hold     lends volumes and listeners to a node's agent, in a pod
//
// Exit codes: 0 done; 1 it could not be done; 2 it was asked in a wrong way; 3 inspect found
// something that cannot be read. Every error is one line on standard error that says what to
// do next.
package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	guestfs "vmfr/agent/guestfs/sandbox"
	"vmfr/agent/jail"
	"vmfr/agent/sandbox"
	"vmfr/internal/cli"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitError      = cli.ExitError
	exitUsage      = cli.ExitUsage
	exitUnreadable = 3
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Main(os.Args[2:])) // started by serve, see agent/jail
	}
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:])) // started by node and serve, see agent/sandbox
	}
	if len(os.Args) > 1 && os.Args[1] == guestfs.Command {
		os.Exit(guestfs.Main(os.Args[2:])) // started by node, see agent/guestfs/sandbox
	}
	if len(os.Args) == 2 && os.Args[1] == workCommand {
		os.Exit(runWork(work))
	}
	if len(os.Args) == 2 && os.Args[1] == localCommand {
		os.Exit(runWork(workLocal))
	}
	ctx, stop := cli.Interruptible()
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		cli.Report("vmfr-agent", err)
	}
	stop()
	os.Exit(exitCode(err))
}

// errUnreadable is inspect's finding that something cannot be read.
var errUnreadable = errors.New("not everything can be read")

func exitCode(err error) int {
	code := cli.ExitCode(err)
	if code == exitError && errors.Is(err, errUnreadable) {
		return exitUnreadable
	}
	return code
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "vmfr-agent",
		Short: "Files out of virtual machine backups, read-only",
		Long: "vmfr-agent opens disk images (raw, qcow2) of virtual machine backups and serves the files on them\n" +
			"by SFTP, HTTPS and FUSE. Nothing is ever written to an image, and no file system of a guest is\n" +
			"mounted by this machine's kernel.\n\n" +
			"Exit codes: 0 done; 1 an error; 2 a wrong command line; 3 inspect found something unreadable.",
		Example: "  vmfr-agent serve --sample\n" +
			"  vmfr-agent serve --disk nightly-0412/rootdisk=disk.qcow2\n" +
			"  vmfr-agent mount --disk nightly-0412/rootdisk=disk.qcow2 /mnt\n" +
			"  vmfr-agent inspect --walk --disk nightly-0412/rootdisk=disk.qcow2",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cli.SetUp(root)
	root.AddCommand(serveCommand(), mountCommand(), inspectCommand(), holdCommand(), nodeCommand(), cli.VersionCommand("vmfr-agent", version), applianceCommand())
	return root
}
