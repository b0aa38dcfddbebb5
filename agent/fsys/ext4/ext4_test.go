package ext4

import (
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

func TestSmoke(t *testing.T) {
	img := fixture.Ext4(t, "/usr/share/doc/bash", 64<<20)
	dir := fixture.Mount(t, img, "ext4", "ro", 0, 0)
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)
	fsystest.Run(t, openImage(t, img), want)
}
