package engine

import (
	"os"
	"testing"

	"vmfr/agent/extent"
)

// file is a raw image as a Reader.
type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

func (f file) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.size, off, max)
	return extent.Extent{Len: max, Host: f.File, HostOff: off}, err
}

func openFile(t *testing.T, path string) extent.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return file{f, st.Size()}
}
