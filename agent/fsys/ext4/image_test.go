package ext4

import (
	"os"
	"sync/atomic"
	"testing"

	"vmfr/agent/extent"
)

// rawDevice is a file as an extent.Reader that counts what is read of it.
type rawDevice struct {
	*os.File
	size  int64
	reads atomic.Int64
	bytes atomic.Int64
}

var _ extent.Reader = (*rawDevice)(nil)

func (d *rawDevice) Size() int64 { return d.size }

func (d *rawDevice) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	d.bytes.Add(int64(len(p)))
	return d.File.ReadAt(p, off)
}

func (d *rawDevice) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(d.size, off, max)
	return extent.Extent{Len: max, Host: d.File, HostOff: off}, err
}

func openDevice(t testing.TB, img string) *rawDevice {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return &rawDevice{File: f, size: st.Size()}
}

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	fs, err := Open(openDevice(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}
