package xfs

import (
	"strings"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// features are the layouts that mkfs.xfs makes and this kernel mounts. Each is filled by the kernel,
// and what the kernel then shows is what we must show.
var features = []struct {
	name    string
	options string
}{
	{"default", ""},
	{"1k", "-b size=1024"},
	{"2k", "-b size=2048"},
	{"8k", "-b size=8192"},
	{"16k", "-b size=16384"},
	{"32k", "-b size=32768"},
	{"64k", "-b size=65536"},
	{"64k in sectors of 32k", "-b size=65536 -s size=32768"},
	{"sectors of 4k", "-s size=4096"},
	{"1k with directory blocks of 64k", "-b size=1024 -n size=65536"},
	{"directory blocks of 16k", "-n size=16384"},
	{"inodes of 1k", "-b size=2048 -i size=1024"},
	{"inodes of 2k", "-i size=2048"},
	{"rmapbt", "-m rmapbt=1"},
	{"no reflink", "-m reflink=0"},
	{"no bigtime and inobtcount", "-m bigtime=0,inobtcount=0"},
	{"no finobt", "-m finobt=0,inobtcount=0"},
	{"no sparse inodes", "-i sparse=0"},
	{"nrext64", "-i nrext64=1"},
	{"nrext64 1k", "-i nrext64=1 -b size=1024"},
	{"as old as version 5 can be", "-m finobt=0,inobtcount=0,bigtime=0,reflink=0 -i sparse=0"},
	{"all at once", "-b size=2048 -n size=8192 -m rmapbt=1 -i nrext64=1,size=1024 -s size=1024"},
	{"many groups", "-d agcount=12"},
}

func TestFeatures(t *testing.T) {
	for _, c := range features {
		t.Run(c.name, func(t *testing.T) {
			img := makeImage(t, 320<<20, append(strings.Fields(c.options), "-L", "a label")...)
			fs := openImage(t, img)
			dir := fixture.Mount(t, img, "xfs", "rw", 0, 0)
			populate(t, dir, int(fs.sb.blockSize))
			fixture.Unmount(t, dir)

			dir = fixture.Mount(t, img, "xfs", "ro,norecovery", 0, 0)
			want := fixture.Manifest(t, dir)
			stat := statfs(t, dir)
			fixture.Unmount(t, dir)

			fs = openImage(t, img)
			fsystest.Run(t, fs, want)
			info := fs.Info()
			if info.Total != stat.Blocks*uint64(stat.Bsize) || info.Label != "a label" || info.Journal != "clean" {
				t.Errorf("%+v; the kernel says %+v", info, stat)
			}
			if used, kernel := info.Files-info.FreeFiles, stat.Files-stat.Ffree; used != kernel {
				t.Errorf("%d inodes in use, the kernel says %d", used, kernel)
			}
			if free := fs.sb.fdblocks * fs.sb.blockSize; info.Free != free { // right after a clean unmount
				t.Errorf("%d bytes free, the superblock says %d", info.Free, free)
			}
			if len(info.Warnings) != 0 {
				t.Errorf("warnings: %q", info.Warnings)
			}
			if u := strings.TrimSpace(fixture.Run(t, "blkid", "-p", "-o", "value", "-s", "UUID", img)); u != info.UUID {
				t.Errorf("UUID %s, want %s", info.UUID, u)
			}
		})
	}
}
