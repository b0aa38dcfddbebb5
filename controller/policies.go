package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"vmfr/controller/plan"
	"vmfr/internal/cli"
)

// deployedUser is who the controller of deploy/ is.
const deployedUser = "system:serviceaccount:vmfr-system:vmfr-controller"

func policiesCommand() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:   "policies",
		Short: "Print the admission policies of sessions' namespaces",
		Long: "Prints the ValidatingAdmissionPolicies, with their bindings, that let nobody but the controller run\n" +
			"anything in the namespaces of file restores. deploy/ holds them for its own service account; a\n" +
			"controller that runs as somebody else needs them with that name.",
		Example: "  vmfr-controller policies | kubectl apply -f -\n" +
			"  vmfr-controller policies --controller-user system:serviceaccount:backup:files",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, o := range plan.AdmissionPolicies(user) {
				u, err := plan.ForApply(o)
				if err != nil {
					return err
				}
				b, err := yaml.Marshal(u.Object)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(c.OutOrStdout(), "---\n%s", b); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&user, "controller-user", deployedUser, "`USER` that the controller is")
	return c
}
