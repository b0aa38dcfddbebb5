//go:build guestfs

package main

import (
	"github.com/spf13/cobra"

	"vmfr/agent/guestfs/helper"
	"vmfr/internal/cli"
)

// applianceCommand is the helper process of package guestfs, which starts it.
func applianceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "appliance",
		Short:  "Run one libguestfs appliance (for vmfr-agent's own use)",
		Hidden: true,
		Args:   cli.NoArguments,
		RunE:   func(*cobra.Command, []string) error { return helper.Run() },
	}
}
