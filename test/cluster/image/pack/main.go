// Command pack makes a container image's archive of a root directory and prints the image's name:
//
//	pack [--name NAME] [--cmd ARGUMENT] [--env NAME=VALUE] [--label NAME=VALUE] ROOT ARCHIVE
//
// All files have the owners and modes that they have in ROOT.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"vmfr/test/cluster/image"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	name := pflag.String("name", "root", "the image's `NAME`")
	env := pflag.StringArray("env", nil, "`NAME=VALUE` in the environment of its programs")
	cmd := pflag.StringArray("cmd", nil, "the next `ARGUMENT` of the command where a Pod says nothing")
	labels := pflag.StringArray("label", nil, "`NAME=VALUE` of a label")
	user := pflag.String("user", "65532:65532", "`UID:GID` of its programs where a Pod says nothing")
	pflag.Parse()
	if pflag.NArg() != 2 {
		return errors.New("usage: pack [FLAGS] ROOT ARCHIVE")
	}
	named := map[string]string{}
	for _, l := range *labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("--label %s: give NAME=VALUE", l)
		}
		named[key] = value
	}
	files, err := image.Dir(pflag.Arg(0), "/")
	if err != nil {
		return err
	}
	reference, err := image.Image{Name: *name, Files: files, Cmd: *cmd, User: *user, Env: *env, Labels: named}.Write(pflag.Arg(1))
	if err != nil {
		return err
	}
	fmt.Println(reference)
	return nil
}
