package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// CacheEnv names the directory for what takes long to make; empty: vmfr in the user's cache
// directory.
const CacheEnv = "VMFR_CACHE"

// programs that are built; etcd comes from Debian.
var programs = []string{"kube-apiserver", "kubectl"}

// buildFlags are part of the cache's key. The version is what clients see, and some behave by it.
var buildFlags = []string{"-trimpath", "-ldflags",
	"-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35"}

// Programs returns the directory that holds the control plane's programs as they are pinned in
// test/cluster/kubernetes/go.mod; ok tells whether they are there.
func Programs() (dir string, ok bool, err error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(moduleDir(), name))
		if err != nil {
			return "", false, err
		}
		h.Write(b)
	}
	_, _ = fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, buildFlags, programs)
	cache := os.Getenv(CacheEnv)
	if cache == "" {
		if cache, err = os.UserCacheDir(); err != nil {
			cache = os.TempDir() // a system account without a home
		}
		cache = filepath.Join(cache, "vmfr")
	}
	dir = filepath.Join(cache, fmt.Sprintf("kubernetes-%x", h.Sum(nil)[:8]))
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return dir, false, nil
		}
	}
	return dir, true, nil
}

// Build builds the programs unless they are there already, which takes some minutes and 3 GB of
// Go's caches the first time. Of two processes one builds and the other waits.
func Build(ctx context.Context) (dir string, err error) {
	dir, ok, err := Programs()
	if err != nil || ok {
		return dir, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("%s: %w", lock.Name(), err)
	}
	if _, ok, err := Programs(); err != nil || ok {
		return dir, err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(part) }()
	args := append([]string{"build", "-o", part + "/"}, buildFlags...)
	for _, p := range programs {
		args = append(args, "k8s.io/kubernetes/cmd/"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = moduleDir()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), cmd.Dir, err, out)
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return "", err
	}
	return dir, errors.Join(os.RemoveAll(dir), os.Rename(part, dir))
}

// moduleDir is test/cluster/kubernetes, from wherever the test runs.
func moduleDir() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) { // built with -trimpath: from the module's root
		return filepath.Join("test", "cluster", "kubernetes")
	}
	return filepath.Join(filepath.Dir(file), "kubernetes")
}
