package ext4

import (
	"sync/atomic"
	"testing"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// rawDevice is a raw image that counts how often it is read.
type rawDevice struct {
	extent.Reader
	reads atomic.Int64
}

func (d *rawDevice) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	return d.Reader.ReadAt(p, off)
}

func openDevice(t testing.TB, img string) *rawDevice {
	t.Helper()
	return &rawDevice{Reader: fixture.OpenRaw(t, img)}
}

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	fs, err := Open(openDevice(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}
