package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// LoadImage loads an archive that package image wrote, or any other in Docker's or OCI's format.
// Pods name it by its reference; a pull policy other than Always finds it.
func (n *Node) LoadImage(ctx context.Context, archive string) error {
	return loadImage(ctx, archive, n.Command)
}

// loadImage loads an image's archive into containerd, whose namespaces command runs programs in. It
// returns when kubelet can see the image.
func loadImage(ctx context.Context, archive string, command func(ctx context.Context, name string, args ...string) *exec.Cmd) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not unpacked: the first container does that, with the snapshotter that containerd is configured for.
	load := command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", "-")
	load.Stdin = f
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("load %s: %w: %s", archive, err, bytes.TrimSpace(out))
	}
	return await(ctx, func() error {
		out, err := command(ctx, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet", `labels."io.cri-containerd.image"!=managed`).CombinedOutput()
		if out := bytes.TrimSpace(out); err == nil && len(out) > 0 {
			err = fmt.Errorf("containerd does not tell kubelet of %s yet", out)
		}
		return err
	})
}

// saveImages writes an archive of all images that containerd has in a running node.
func (n *Node) saveImages(ctx context.Context, archive string) error {
	list, err := n.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet").Output()
	if err != nil {
		return fmt.Errorf("list the images of %s: %w", n.Name(), err)
	}
	export := []string{"--namespace", "k8s.io", "images", "export", archive}
	for name := range strings.FieldsSeq(string(list)) {
		if !strings.HasPrefix(name, "sha256:") { // kubelet's second name of one
			export = append(export, name)
		}
	}
	if out, err := n.Command(ctx, "ctr", export...).CombinedOutput(); err != nil {
		return fmt.Errorf("save the images of %s: %w: %s", n.Name(), err, bytes.TrimSpace(out))
	}
	return nil
}
