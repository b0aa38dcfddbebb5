// Command pack makes a container image's archive of a root directory and prints the image's name:
//
//	pack [--name NAME] [--env NAME=VALUE] [--label NAME=VALUE] ROOT ARCHIVE
//
// All files are root's, with the modes that they have in ROOT.
package main

import (
	"errors"
	"fmt"
	"os"

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
	labels := pflag.StringToString("label", nil, "`NAME=VALUE` of a label")
	user := pflag.String("user", "65532:65532", "`UID:GID` of its programs where a Pod says nothing")
	pflag.Parse()
	if pflag.NArg() != 2 {
		return errors.New("usage: pack [FLAGS] ROOT ARCHIVE")
	}
	files, err := image.Dir(pflag.Arg(0), "/")
	if err != nil {
		return err
	}
	reference, err := image.Image{Name: *name, Files: files, User: *user, Env: *env, Labels: *labels}.Write(pflag.Arg(1))
	if err != nil {
		return err
	}
	fmt.Println(reference)
	return nil
}
