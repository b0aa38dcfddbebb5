package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"vmfr/test/cluster"
	"vmfr/test/cluster/image"
)

// load makes an image, loads it and returns its reference.
func (c Cluster) load(ctx context.Context, i image.Image) (string, error) {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	archive := filepath.Join(dir, "image.tar")
	reference, err := i.Write(archive)
	if err != nil {
		return "", err
	}
	return reference, c.Load(ctx, archive)
}

// static is an image of programs that need nothing else, at the root of their image, with a /tmp.
func static(name string, dir string, programs ...string) image.Image {
	i := image.Image{Name: name, Env: []string{"HOME=/tmp"},
		Files: []image.File{{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}}}
	for _, p := range programs {
		i.Files = append(i.Files, image.File{Path: "/" + p, Source: filepath.Join(dir, p), Mode: 0o755})
	}
	return i
}

// loadPrograms loads an image of programs of one of the modules that test/cluster builds.
func (c Cluster) loadPrograms(ctx context.Context, name string, m cluster.Module, programs ...string) (string, error) {
	dir, lock, err := m.Use(ctx)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	return c.load(ctx, static(name, dir, programs...))
}

// loadPlugin loads an image of a plugin for Velero, which copies itself to where the server looks.
func (c Cluster) loadPlugin(ctx context.Context, m cluster.Module, plugin string) (string, error) {
	dir, lock, err := m.Use(ctx)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	files, err := image.Busybox()
	if err != nil {
		return "", err
	}
	at := "/plugins/" + plugin
	return c.load(ctx, image.Image{Name: plugin, Entrypoint: []string{"/bin/cp", at, "/target/"},
		Files: append(files, image.File{Path: at, Source: filepath.Join(dir, plugin), Mode: 0o755})})
}

// loadDriver builds the CSI driver and loads its image, in which it has mke2fs. What was built stays
// in the cache, where Go finds that it is current.
func (c Cluster) loadDriver(ctx context.Context) (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", errors.New("the sources of the CSI driver are not there: build this program without -trimpath")
	}
	dir := filepath.Join(cluster.CacheDir(), "loopcsi")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // until the image is made of it
		return "", fmt.Errorf("%s: %w", lock.Name(), err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./loopcsi")
	build.Dir = filepath.Join(filepath.Dir(filepath.Dir(file)), "csi")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s in %s: %w\n%s", build, build.Dir, err, out)
	}
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		return "", fmt.Errorf("%w (make deps installs it)", err)
	}
	files, err := image.Program(mke2fs, "/sbin/mke2fs")
	if err != nil {
		return "", err
	}
	i := static("loopcsi", dir, "loopcsi")
	i.Files = image.Merge(i.Files, files)
	return c.load(ctx, i)
}
