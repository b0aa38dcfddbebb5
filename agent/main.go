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
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vmfr/agent/jail"
	"vmfr/agent/sandbox"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitError      = 1
	exitUsage      = 2
	exitUnreadable = 3
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Main(os.Args[2:])) // started by serve, see agent/jail
	}
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:])) // started by node, see agent/sandbox
	}
	if len(os.Args) == 2 && os.Args[1] == workCommand {
		os.Exit(runWork())
	}
	ctx, stop := interruptible()
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmfr-agent: %s\n", oneLine(err))
	}
	stop()
	os.Exit(exitCode(err))
}

// interruptible returns a context that ends with the first SIGINT or SIGTERM; the second one
// ends the process at once.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-signals
		cancel()
		s := <-signals
		code := exitError
		if n, ok := s.(unix.Signal); ok {
			code = 128 + int(n)
		}
		os.Exit(code)
	}()
	return ctx, cancel
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errUnreadable is inspect's finding that something cannot be read.
var errUnreadable = errors.New("not everything can be read")

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errUnreadable):
		return exitUnreadable
	}
	return exitError
}

// oneLine keeps an error on one line, whatever file names are in it.
func oneLine(err error) string { return oneLineText(err.Error()) }

func oneLineText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
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
		Args:              noArguments,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(serveCommand(), mountCommand(), inspectCommand(), holdCommand(), nodeCommand(), versionCommand(), applianceCommand())
	return root
}

// noArguments refuses words that are no flags.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not expected here; see %s --help", args[0], c.CommandPath())
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version of this program, of Go, and the platform.",
		Example: "  vmfr-agent version",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "vmfr-agent %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
