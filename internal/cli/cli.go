// Package cli is what the command lines of vmfr-agent and vmfr-controller have in common, beside
// cobra: signals, exit codes, errors of one line, the version and how to log.
//
// Non-goal: it knows no command of either program.
package cli

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

// Exit codes.
const (
	ExitError = 1 // it could not be done
	ExitUsage = 2 // it was asked in a wrong way
)

// Interruptible returns a context that ends with the first SIGINT or SIGTERM; the second one
// ends the process at once.
func Interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		s := <-signals
		code := ExitError
		if n, ok := s.(syscall.Signal); ok {
			code = 128 + int(n)
		}
		os.Exit(code)
	}()
	return ctx, cancel
}

// UsageError is a wrong command line.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef is a UsageError of fmt.Errorf.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ExitCode is the exit code that an error stands for.
func ExitCode(err error) int {
	var usage UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return ExitUsage
	}
	return ExitError
}

// OneLine keeps a text on one line, whatever file names or servers' answers are in it.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// Report writes an error to standard error as one line.
func Report(program string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", program, OneLine(err.Error()))
}

// SetUp gives a program's root command what all of its commands share: who calls ExitCode and
// Report prints errors, and a wrong flag names the help.
func SetUp(root *cobra.Command) {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usagef("%w; see %s --help", err, c.CommandPath())
	})
}

// NoArguments refuses words that are no flags.
func NoArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%q is not expected here; see %s --help", args[0], c.CommandPath())
	}
	return nil
}

// VersionCommand prints the version of a program.
func VersionCommand(program, version string) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version of this program, of Go, and the platform.",
		Example: "  " + program + " version",
		Args:    NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s %s %s/%s\n", program, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
