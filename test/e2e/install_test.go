package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"vmfr/test/cluster/image"
	"vmfr/test/cluster/install"
)

// base is what the cluster has besides vmfr.
func (w *world) base() install.Cluster {
	c := install.Cluster{Config: w.Config, Load: w.load}
	if testing.Verbose() {
		c.Log = os.Stderr
	}
	return c
}

// install makes a bare cluster one with backups, and puts vmfr on it.
func (w *world) install(t *testing.T) {
	t.Helper()
	w.late = install.StorageClassWait
	*storageClass = install.StorageClass
	archive := filepath.Join(t.TempDir(), "tools.tar")
	tools, err := image.Tools()
	if err == nil {
		*toolsImage, err = tools.Write(archive)
	}
	if err == nil {
		err = w.load(t.Context(), archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.build(t)
	w.size = w.loaded
	if w.node != nil {
		w.smallState(t)
	}
	if err := w.base().All(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.deploy(t)
}

// bucket is the folder of the node's bucket as this process sees it; empty on somebody else's node.
func (w *world) bucket() string {
	if w.node == nil {
		return ""
	}
	return filepath.Join("/proc", pidText(w.node.Pid()), "root", install.S3Dir, install.Bucket)
}

// bucketSums are the sums of what the bucket holds of backups. Velero's maintenance of its
// repositories goes on beside it.
func (w *world) bucketSums(t testing.TB) map[string]string {
	t.Helper()
	if w.node == nil {
		return nil
	}
	dir := filepath.Join(w.bucket(), "backups")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // no backup was ever made
	}
	return sums(t, dir)
}

// hideFromBucket makes a backup's content vanish from the bucket until restore is called.
func (w *world) hideFromBucket(t testing.TB, backup string) (restore func()) {
	t.Helper()
	path := filepath.Join(w.bucket(), "backups", backup, backup+".tar.gz")
	if err := os.Rename(path, path+".hidden"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(path+".hidden", path); err != nil {
			t.Error(err)
		}
	}
}
