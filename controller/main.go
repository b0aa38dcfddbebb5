// Command vmfr-controller finds the Velero backups that hold a virtual machine and restores what
// is needed to serve their files. It works on VirtualMachineBackupsDiscovery and
// VirtualMachineFileRestore objects in Velero's namespace and never reads a byte of a guest.
//
// Exit codes: 0 it was asked to end; 1 it could not go on; 2 it was started in a wrong way. Every
// error is one line on standard error that says what to do next.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitError = 1
	exitUsage = 2
)

func main() {
	ctx, stop := interruptible()
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmfr-controller: %s\n", oneLine(err))
	}
	stop()
	os.Exit(exitCode(err))
}

// interruptible returns a context that ends with the first SIGINT or SIGTERM; the second one
// ends the process at once.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		s := <-signals
		code := exitError
		if n, ok := s.(syscall.Signal); ok {
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

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitError
}

// oneLine keeps an error on one line, whatever the API server's answer holds.
func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, err.Error())
}

func rootCommand() *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   "vmfr-controller --holder-image IMAGE",
		Short: "File-level restore from Velero's backups of virtual machines",
		Long: "vmfr-controller looks after two kinds of objects in Velero's namespace. For each\n" +
			"VirtualMachineBackupsDiscovery it finds the backups that hold a virtual machine; for each\n" +
			"VirtualMachineFileRestore it has Velero restore the machine's volumes into namespaces of their own\n" +
			"and starts the pods through which the node's agent serves the files. Deleting an object removes\n" +
			"all that was made for it.\n\n" +
			"It runs in a pod with the service account of deploy/, or outside the cluster with --kubeconfig. It\n" +
			"ends with SIGINT or SIGTERM and leaves everything to the next start: nothing is kept in memory.\n\n" +
			"Ready (/readyz) means that the resources it needs are installed and its caches are filled.\n\n" +
			"Exit codes: 0 it was asked to end; 1 it could not go on; 2 a wrong command line.",
		Example: "  vmfr-controller --holder-image registry.example/vmfr:v1.0 --leader-elect\n" +
			"  vmfr-controller --holder-image registry.example/vmfr:v1.0 --velero-namespace backup --log-format json\n" +
			"  vmfr-controller --holder-image registry.example/vmfr:v1.0 --kubeconfig ~/.kube/config --leader-elect=false\n" +
			"  vmfr-controller --holder-image registry.example/vmfr:v1.0 --ingress-class nginx \\\n" +
			"      --host-template '{{.Name}}.files.example.com' \\\n" +
			"      --ingress-annotation nginx.ingress.kubernetes.io/backend-protocol=HTTPS",
		Args:              noArguments,
		RunE:              func(c *cobra.Command, _ []string) error { return f.run(c) },
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, c.CommandPath())
	})
	f.register(root)
	root.AddCommand(policiesCommand(), versionCommand())
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
		Example: "  vmfr-controller version",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "vmfr-controller %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
