package fsystest

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Updating tells whether the images in testdata are to be made anew, with the kernel or the
// programs of that file system.
func Updating() bool { return os.Getenv("VMFR_UPDATE_TESTDATA") != "" }

// Stored is an image of a package's testdata.
func Stored(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Store puts an image into a package's testdata.
func Store(t testing.TB, name string, image io.Reader) {
	t.Helper()
	path := filepath.Join("testdata", name+".gz")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestCompression)
	if err == nil {
		_, err = io.Copy(z, image)
		err = errors.Join(err, z.Close())
	}
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// StoreFile is Store for an image that is a file.
func StoreFile(t testing.TB, name, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	Store(t, name, f)
}
