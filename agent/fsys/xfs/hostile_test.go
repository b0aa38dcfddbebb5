package xfs

import (
	"fmt"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// What is asked of a damaged image.
var (
	stat, listing, readlink, xattrs, content = fsystest.ProbeStat, fsystest.ProbeList,
		fsystest.ProbeReadlink, fsystest.ProbeXattrs, fsystest.ProbeContent
)

// lookup finds the name that is number n of those that fillBase makes, all of the undamaged file.
func lookup(dir string, n int) fsystest.Probe {
	return fsystest.ProbeLookup(dir, fmt.Sprintf("name %03d %s", n, strings.Repeat("n", 20)))
}

// hostileMemory is what one case may allocate: the image has 16 MiB, and the metadata cache 8.
const hostileMemory = 64 << 20

// hostileCase is a fsystest.Damaged.
type hostileCase struct {
	name   string
	mutate func(h *hostile)
	probe  fsystest.Probe
	kind   error
	text   string
	object string
}

// TestHostile damages one structure at a time, with its checksum made right where that is not the
// damage: the error is of the expected kind and names the object, everything else still reads
// right, and time and memory stay bounded.
func TestHostile(t *testing.T) {
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c hostileCase) run(t *testing.T) {
	h := newHostile(t)
	c.mutate(h)
	fsystest.Damaged{
		Whole: h.fs, Open: func() (fsys.FS, error) { return Open(extent.Bytes(h.b), Options{}) },
		Ask: c.probe, Want: c.kind, Text: c.text, Object: c.object, Known: ofKnownKind, Survey: survey, Memory: hostileMemory,
		Good: c.name != "file in the inode",
	}.Check(t)
}
