package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// CacheEnv names the directory for what takes long to make; empty: vmfr in the user's cache
// directory.
const CacheEnv = "VMFR_CACHE"

// buildJobs is how much of a build runs at once, at most: the linker takes up to 2 GiB for one of
// the larger programs.
const buildJobs = 4

// Module is a set of programs that are built together: a Go module of its own in a folder here,
// since their dependencies and the project's exclude each other.
type Module struct {
	Folder   string
	Packages []string
	Flags    []string // part of the cache's key, as the module's files are
}

// The modules. etcd comes from Debian.
var (
	// Kubernetes are the control plane, what runs on a node, and kubectl.
	Kubernetes = Module{
		Folder: "kubernetes",
		Packages: []string{
			"k8s.io/kubernetes/cmd/kube-apiserver",
			"k8s.io/kubernetes/cmd/kube-controller-manager",
			"k8s.io/kubernetes/cmd/kube-proxy",
			"k8s.io/kubernetes/cmd/kube-scheduler",
			"k8s.io/kubernetes/cmd/kubectl",
			"k8s.io/kubernetes/cmd/kubelet",
		},
		// The version is what clients see, and some behave by it.
		Flags: []string{"-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35"},
	}
	// VeleroPrograms are Velero and its plugin for S3.
	VeleroPrograms = Module{
		Folder: "velero",
		Packages: []string{
			"github.com/vmware-tanzu/velero/cmd/velero",
			"github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws",
		},
		// Velero leaves its library's own metrics on port 8080, which only one server can have: off.
		Flags: []string{"-trimpath", "-ldflags", "-s -w -X github.com/vmware-tanzu/velero/pkg/buildinfo.Version=v1.18.3" +
			" -X sigs.k8s.io/controller-runtime/pkg/metrics/server.DefaultBindAddress=0"},
	}
	// KubeVirtPlugin is Velero's plugin for virtual machines.
	KubeVirtPlugin = Module{
		Folder:   "kubevirtplugin",
		Packages: []string{"kubevirt.io/kubevirt-velero-plugin"},
		Flags:    []string{"-trimpath", "-ldflags", "-s -w"},
	}
	// Snapshotter is CSI snapshots' sidecar and controller.
	Snapshotter = Module{
		Folder: "snapshotter",
		Packages: []string{
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
		},
		Flags: []string{"-trimpath", "-ldflags", "-s -w"},
	}
	// S3Gateway is versitygw: S3 on a directory.
	S3Gateway = Module{
		Folder:   "s3",
		Packages: []string{"github.com/versity/versitygw/cmd/versitygw"},
		Flags:    []string{"-trimpath", "-ldflags", "-s -w"},
	}
)

// Modules are all that is built.
var Modules = []Module{Kubernetes, VeleroPrograms, KubeVirtPlugin, Snapshotter, S3Gateway}

// CacheDir is the directory for what takes long to make; it may not exist yet.
func CacheDir() string {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir() // a system account without a home
	}
	return filepath.Join(dir, "vmfr")
}

// Programs returns the directory that holds the module's programs as they are pinned; ok tells
// whether they are there.
func (m Module) Programs() (dir string, ok bool, err error) {
	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(m.source(), name))
		if err != nil {
			return "", false, err
		}
		key.Write(b)
	}
	_, _ = fmt.Fprintln(key, runtime.Version(), runtime.GOARCH, m.Flags, m.Packages)
	dir = filepath.Join(CacheDir(), fmt.Sprintf("%s-%x", m.Folder, key.Sum(nil)[:8]))
	for _, p := range m.Packages {
		if _, err := os.Stat(filepath.Join(dir, path.Base(p))); err != nil {
			return dir, false, nil
		}
	}
	return dir, true, nil
}

// Build builds the programs unless they are there already, which takes minutes and gigabytes of
// Go's caches the first time. Of two processes one builds and the other waits. What was built
// from other versions of the module is removed, unless a test uses it.
func (m Module) Build(ctx context.Context) (dir string, err error) {
	dir, ok, err := m.Programs()
	if err != nil || ok {
		return dir, err
	}
	cache := filepath.Dir(dir)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, m.Folder+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("%s: %w", lock.Name(), err)
	}
	if _, ok, err := m.Programs(); err != nil || ok {
		return dir, err
	}
	part := filepath.Join(cache, "building-"+m.Folder)
	if err := os.RemoveAll(part); err != nil { // of a build that was killed
		return "", err
	}
	defer func() { _ = os.RemoveAll(part) }()
	args := slices.Concat([]string{"build", "-p", strconv.Itoa(min(runtime.NumCPU(), buildJobs)), "-o", part + "/"}, m.Flags, m.Packages)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = m.source()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), cmd.Dir, err, out)
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(part, dir)); err != nil {
		return "", err
	}
	return dir, m.removeOthers(dir)
}

// removeOthers removes what other versions of the module left in the cache. A directory that a
// test uses is locked, and stays.
func (m Module) removeOthers(dir string) error {
	others, err := filepath.Glob(filepath.Join(filepath.Dir(dir), m.Folder+"-*"))
	if err != nil {
		return err
	}
	for _, other := range others {
		if other == dir {
			continue
		}
		f, err := os.Open(other)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.RemoveAll(other)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// source is the module's folder, from wherever the test runs.
func (m Module) source() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) { // built with -trimpath: from the module's root
		return filepath.Join("test", "cluster", m.Folder)
	}
	return filepath.Join(filepath.Dir(file), m.Folder)
}

// ErrNotBuilt is Use's error where the programs are missing.
var ErrNotBuilt = errors.New("is not built: run make cluster-programs")

// Use returns the directory of the programs, which stays until lock is closed. Where they are
// missing it is ErrNotBuilt, or builds them where fixture.RequireEnv is set.
func (m Module) Use(ctx context.Context) (dir string, lock *os.File, err error) {
	for {
		dir, ok, err := m.Programs()
		switch {
		case err != nil:
			return "", nil, err
		case !ok && os.Getenv(fixture.RequireEnv) == "":
			return "", nil, fmt.Errorf("%s %w", m.Folder, ErrNotBuilt)
		case !ok:
			if dir, err = m.Build(ctx); err != nil {
				return "", nil, err
			}
		}
		f, err := os.Open(dir)
		if err != nil {
			return "", nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			_ = f.Close()
			return "", nil, fmt.Errorf("%s: %w", dir, err)
		}
		if _, ok, _ := m.Programs(); ok {
			return dir, f, nil
		}
		_ = f.Close() // removed before it was locked
	}
}

// Need is Use until the test ends. Where the programs are missing it skips the test.
func (m Module) Need(t testing.TB) string {
	t.Helper()
	dir, lock, err := m.Use(t.Context())
	switch {
	case errors.Is(err, ErrNotBuilt):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	return dir
}
