// Command vmfr-controller finds the Velero backups that hold a virtual machine and restores what
// is needed to serve their files. It works on VirtualMachineBackupsDiscovery and
// VirtualMachineFileRestore objects in Velero's namespace and never reads a byte of a guest.
//
// Exit codes: 0 it was asked to end; 1 it could not go on; 2 it was started in a wrong way. Every
// error is one line on standard error that says what to do next.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"vmfr/internal/cli"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitError = cli.ExitError
	exitUsage = cli.ExitUsage
)

func main() {
	ctx, stop := cli.Interruptible()
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		cli.Report("vmfr-controller", err)
	}
	stop()
	os.Exit(cli.ExitCode(err))
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
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	cli.SetUp(root)
	f.register(root)
	root.AddCommand(policiesCommand(), cli.VersionCommand("vmfr-controller", version))
	return root
}
