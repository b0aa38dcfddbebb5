// Package product makes what is shipped, for tests: the slim container image, with this tree's
// programs, by the scripts that the Dockerfile runs (deploy/image).
//
// What comes from Debian is kept in the cache directory (cluster.CacheDir). Only the first time
// needs the Internet, about a minute of it; afterwards an image takes seconds.
package product

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"vmfr/test/cluster"
)

// Image builds the programs of the module at root and makes their slim image as an archive. Version
// is what they say of themselves. It needs root, debootstrap and Go.
func Image(ctx context.Context, root, archive, version string) (reference string, err error) {
	dir, err := os.MkdirTemp("", "vmfr-product")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, c := range [][]string{
		{"go", "build", "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + version, "-o", filepath.Join(dir, "vmfr-agent"), "./agent"},
		{"go", "build", "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + version, "-o", filepath.Join(dir, "vmfr-controller"), "./controller"},
		{"deploy/image/local.sh", "slim", dir, archive, version},
	} {
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, c[0], c[1:]...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "IMAGE_CACHE="+cluster.CacheDir())
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: %w (make image-cache fetches what it needs of Debian): %s", strings.Join(c, " "), err, bytes.TrimSpace(said.Bytes()))
		}
	}
	return Reference(archive)
}

// Reference is the name of an archive's image.
func Reference(archive string) (string, error) {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err == nil && (len(manifest) == 0 || len(manifest[0].RepoTags) == 0) {
		err = errors.New("it names no image")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", archive, err)
	}
	return manifest[0].RepoTags[0], nil
}
