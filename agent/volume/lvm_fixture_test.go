package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// lvmRig makes volume groups with LVM's own tools on loop devices. Without device-mapper in the
// kernel the tools still write all metadata; which bytes a logical volume has is then computed
// from what lvs and pvs print, and every sector of every disk tells where it lies.
type lvmRig struct {
	t     testing.TB
	paths []string // of the images
	loops []string // of the physical volumes, in their order
	place map[string]pvPlace
}

// pvPlace is where the device of a physical volume lies.
type pvPlace struct {
	image int
	off   int64
}

// newLVMRig makes images of the given sizes, filled with the pattern.
func newLVMRig(t testing.TB, sizes ...int64) *lvmRig {
	t.Helper()
	fixture.Need(t, "pvcreate", "vgcreate", "lvcreate", "lvs", "losetup")
	fixture.NeedRoot(t)
	rig := &lvmRig{t: t, place: make(map[string]pvPlace)}
	dir := t.TempDir()
	for i, size := range sizes {
		path := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		if err := os.WriteFile(path, pattern(i, size), 0o600); err != nil {
			t.Fatal(err)
		}
		rig.paths = append(rig.paths, path)
	}
	return rig
}

// pattern is a disk whose every sector names itself.
func pattern(disk int, size int64) []byte {
	b := bytes.Repeat([]byte{'.'}, int(size))
	for at := int64(0); at < size; at += 512 {
		copy(b[at:], fmt.Sprintf("disk %d sector %d\n", disk, at/512))
	}
	return b
}

// device makes a loop device of a range of an image; size 0 is all of it.
func (rig *lvmRig) device(image int, off, size int64) string {
	rig.t.Helper()
	args := []string{"--find", "--show", "-o", fmt.Sprint(off)}
	if size > 0 {
		args = append(args, "--sizelimit", fmt.Sprint(size))
	}
	dev := strings.TrimSpace(fixture.Run(rig.t, "losetup", append(args, rig.paths[image])...))
	rig.t.Cleanup(func() { fixture.Run(rig.t, "losetup", "-d", dev) })
	rig.loops = append(rig.loops, dev)
	rig.place[dev] = pvPlace{image, off}
	return dev
}

// devices makes a loop device of every whole image.
func (rig *lvmRig) devices() []string {
	for i := range rig.paths {
		rig.device(i, 0, 0)
	}
	return rig.loops
}

// group makes a group with 64 KiB extents over the devices.
func (rig *lvmRig) group(name string, devices ...string) {
	rig.t.Helper()
	rig.run("vgcreate", append([]string{"-q", "-q", "-y", "-s", "64k", name}, devices...)...)
}

// run runs a program of LVM on the rig's devices alone and returns its standard output.
func (rig *lvmRig) run(program string, args ...string) string {
	rig.t.Helper()
	out, stderr, err := rig.try(program, args...)
	if err != nil {
		rig.t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, stderr)
	}
	return out
}

func (rig *lvmRig) try(program string, args ...string) (stdout, stderr string, err error) {
	var filter strings.Builder
	for _, dev := range rig.loops {
		fmt.Fprintf(&filter, "%q,", "a|^"+dev+"$|")
	}
	config := `devices{filter=[` + filter.String() + `"r|.*|"] use_devicesfile=0 external_device_info_source="none"} ` +
		`activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0} global{event_activation=0}`
	cmd := exec.Command(program, append([]string{"--driverloaded", "n", "--config", config}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "LVM_SUPPRESS_FD_WARNINGS=1")
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// lv makes a logical volume; args are lvcreate's.
func (rig *lvmRig) lv(group, name string, args ...string) {
	rig.t.Helper()
	rig.run("lvcreate", append([]string{"-q", "-q", "-y", "-an", "-Zn", "-Wn", "-n", name, group}, args...)...)
}

// disks returns the images, read into memory, under the names disk0, disk1, ...
func (rig *lvmRig) disks() []Disk {
	rig.t.Helper()
	var out []Disk
	for i, p := range rig.paths {
		out = append(out, Disk{fmt.Sprintf("disk%d", i), extent.Bytes(load(rig.t, p))})
	}
	return out
}

// rows runs lvs or pvs and returns its rows as maps.
func (rig *lvmRig) rows(program string, fields string, args ...string) []map[string]string {
	rig.t.Helper()
	out := rig.run(program, append([]string{"--noheadings", "--nameprefixes", "--unquoted", "--separator", "|",
		"--units", "b", "--nosuffix", "-o", fields}, args...)...)
	var rows []map[string]string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		row := make(map[string]string)
		for _, f := range strings.Split(strings.TrimSpace(line), "|") {
			k, v, _ := strings.Cut(f, "=")
			row[strings.TrimPrefix(k, "LVM2_")] = v
		}
		rows = append(rows, row)
	}
	return rows
}

func number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// want computes the content of every logical volume from the reports of LVM.
func (rig *lvmRig) want() map[string][]byte {
	t := rig.t
	t.Helper()
	images := make([][]byte, len(rig.paths))
	for i, p := range rig.paths {
		images[i] = load(t, p)
	}
	peStart := make(map[string]int64)
	for _, r := range rig.rows("pvs", "pv_name,pe_start") {
		peStart[r["PV_NAME"]] = number(t, r["PE_START"])
	}
	out := make(map[string][]byte)
	for _, r := range rig.rows("lvs", "vg_name,lv_name,vg_extent_size,seg_start,seg_size,stripes,stripe_size,seg_pe_ranges") {
		unit := number(t, r["VG_EXTENT_SIZE"])
		var parts [][]byte
		for _, s := range strings.Fields(r["SEG_PE_RANGES"]) {
			dev, span, ok := strings.Cut(s, ":")
			from, to, ok2 := strings.Cut(span, "-")
			if !ok || !ok2 {
				t.Fatalf("lvs printed the range %q", s)
			}
			at := rig.place[dev].off + peStart[dev] + number(t, from)*unit
			end := rig.place[dev].off + peStart[dev] + (number(t, to)+1)*unit
			parts = append(parts, images[rig.place[dev].image][at:end])
		}
		name := r["VG_NAME"] + "/" + r["LV_NAME"]
		if number(t, r["SEG_START"]) != int64(len(out[name])) {
			t.Fatalf("%s: a segment starts at %s, %d bytes are known", name, r["SEG_START"], len(out[name]))
		}
		size := number(t, r["SEG_SIZE"])
		if len(parts) == 0 { // zero or error
			out[name] = append(out[name], make([]byte, size)...)
			continue
		}
		chunk := int(number(t, r["STRIPE_SIZE"]))
		if len(parts) == 1 {
			chunk = len(parts[0])
		}
		for at := 0; at < len(parts[0]); at += chunk {
			for _, p := range parts {
				out[name] = append(out[name], p[at:at+chunk]...)
			}
		}
	}
	return out
}

// check scans disks and compares all logical volumes with want, byte by byte.
func checkLVs(t testing.TB, res Result, want map[string][]byte) {
	t.Helper()
	found := 0
	for _, v := range res.Volumes {
		if v.LV == nil {
			continue
		}
		found++
		name := v.LV.Group + "/" + v.LV.Name
		w, ok := want[name]
		if !ok {
			t.Errorf("%s was not expected", name)
			continue
		}
		if v.Err != nil {
			t.Errorf("%s: %v", name, v.Err)
			continue
		}
		if got := content(t, v); !bytes.Equal(got, w) {
			at := 0
			for at < len(got) && at < len(w) && got[at] == w[at] {
				at++
			}
			t.Errorf("%s has %d bytes, want %d; they differ from byte %d on: %.40q, want %.40q", name, len(got), len(w), at, got[min(at, len(got)):], w[min(at, len(w)):])
		}
		checkLV(t, v)
	}
	if found != len(want) {
		t.Errorf("%d logical volumes, want %d", found, len(want))
	}
}

func content(t testing.TB, r extent.Reader) []byte {
	t.Helper()
	b := make([]byte, r.Size())
	if n, err := r.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("read %d of %d: %v", n, len(b), err)
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// checkLV checks what must hold for any readable logical volume.
func checkLV(t testing.TB, v Volume) {
	t.Helper()
	if v.LV.Name == "" || v.LV.Group == "" || v.Disk == "" || v.UUID != "" || v.Start != 0 {
		t.Fatalf("%+v %+v", v, v.LV)
	}
	steps := 0
	for off := int64(0); off < v.Size() && steps < 1000; steps++ {
		x, err := v.Extent(off, v.Size()-off)
		if err != nil || x.Len <= 0 || x.Len > v.Size()-off {
			t.Fatalf("%s: extent at %d of %d: %+v, %v", v.Name, off, v.Size(), x, err)
		}
		off += x.Len
	}
}
