package ext4

import (
	"testing"

	"vmfr/test/fixture"
)

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	fs, err := Open(fixture.OpenDevice(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}
