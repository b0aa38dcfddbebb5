package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"vmfr/test/fixture"
)

// startLimit is generous: a loaded machine takes 30 s for what an idle one does in five.
const startLimit = 3 * time.Minute

// ControlPlane is a running kube-apiserver with its etcd.
type ControlPlane struct {
	Config *rest.Config // of an administrator
	// Kubectl runs the real kubectl as an administrator and returns all that it prints.
	Kubectl func(stdin string, args ...string) (string, error)
}

// Start starts a control plane with the CRDs of the given directories, until the test ends. Where
// the programs were not built it skips the test, or builds them where VMFR_TEST_REQUIRE is set.
func Start(t testing.TB, crds ...string) ControlPlane {
	t.Helper()
	fixture.Need(t, "etcd")
	dir, ok, err := Programs()
	switch {
	case err != nil:
		t.Fatal(err)
	case !ok && os.Getenv(fixture.RequireEnv) == "":
		t.Skip("Kubernetes is not built: run make cluster-programs")
	case !ok:
		if dir, err = Build(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	assets := t.TempDir()
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"etcd": etcd}
	for _, p := range programs {
		links[p] = filepath.Join(dir, p)
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(assets, name)); err != nil {
			t.Fatal(err)
		}
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets, CRDDirectoryPaths: crds, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: startLimit, ControlPlaneStopTimeout: startLimit,
	}
	config, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the control plane: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("starting the control plane: %v", err)
	}
	admin, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kubectl, err := admin.Kubectl()
	if err != nil {
		t.Fatal(err)
	}
	return ControlPlane{Config: config, Kubectl: func(stdin string, args ...string) (string, error) {
		cmd := exec.Command(kubectl.Path, append(slices.Clone(kubectl.Opts), args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}}
}
