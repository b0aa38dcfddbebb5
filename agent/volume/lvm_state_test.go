package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

// lvs maps "<group>/<name>" to the logical volumes of a result.
func lvs(res Result) map[string]Volume {
	out := make(map[string]Volume)
	for _, v := range res.Volumes {
		if v.LV != nil {
			out[v.LV.Group+"/"+v.LV.Name] = v
		}
	}
	return out
}

// mustSay fails unless some sentence contains part.
func mustSay(t *testing.T, part string, sentences ...string) {
	t.Helper()
	if !strings.Contains(strings.Join(sentences, "\n"), part) {
		t.Errorf("nothing says %q in %q", part, sentences)
	}
}

// TestLVMMetadataWraps lets the text go round its buffer several times, so that some texts are
// in two pieces, and scans after each change.
func TestLVMMetadataWraps(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib)
	devices := rig.devices()
	rig.run("pvcreate", "-q", "-q", "-y", "--metadatasize", "16k", "--dataalignment", "64k", devices[0])
	rig.run("pvcreate", "-q", "-q", "-y", "--metadatasize", "24k", "--pvmetadatacopies", "2", devices[1])
	rig.group("vg", devices...)
	rig.lv("vg", "keep", "-i", "2", "-I", "8k", "-l", "8")
	for i := range 4 { // a longer text fills the 60 KiB sooner
		rig.run("vgchange", "-q", "-q", "--addtag", strings.Repeat(string(rune('a'+i)), 1000), "vg")
	}
	inTwo, changes := 0, 25
	for i := range changes {
		if i%5 == 4 {
			rig.run("lvremove", "-q", "-q", "-y", fmt.Sprintf("vg/n%d", i-2))
		} else {
			rig.lv("vg", fmt.Sprintf("n%d", i), "-l", "1")
		}
		var images []Disk
		for j, p := range rig.paths {
			b := load(t, p)
			images = append(images, Disk{fmt.Sprint(j), extent.Bytes(b)})
			h := b[4096:]
			if in, n, size := le64(h[40:]), le64(h[48:]), le64(h[32:]); in+n > size {
				inTwo++
			}
		}
		res := Scan(images)
		if got := lvs(res); len(res.Groups) != 1 || len(res.Groups[0].Warnings) > 0 || got["vg/keep"].Err != nil {
			t.Fatalf("change %d: %+v", i, res.Groups)
		}
		if i == changes-1 {
			checkLVs(t, res, rig.want())
		}
	}
	if inTwo < 2 {
		t.Errorf("only %d texts were in two pieces", inTwo)
	}
}

func le64(b []byte) uint64 {
	n := uint64(0)
	for i := range 8 {
		n |= uint64(b[i]) << (8 * i)
	}
	return n
}

// TestLVMMovedExtents: pvmove needs a kernel with device-mapper, so the move is made by hand as
// pvmove does it: copy, then tell in the metadata.
func TestLVMMovedExtents(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib)
	rig.group("vg", rig.devices()...)
	rig.lv("vg", "a", "-l", "10", rig.loops[0])
	before := rig.want()["vg/a"]
	b := [][]byte{load(t, rig.paths[0]), load(t, rig.paths[1])}
	copy(b[1][mib+7*65536:], b[0][mib+4*65536:mib+10*65536])
	for i, p := range rig.paths {
		if err := os.WriteFile(p, b[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rig.edit("vg", func(s string) string {
		return replace(t, replace(t, s, "segment_count = 1", "segment_count = 2"), "extent_count = 10", `extent_count = 4
type = "striped"
stripe_count = 1
stripes = [ "pv0", 0 ]
}
segment2 {
start_extent = 4
extent_count = 6`, `"pv0", 0
				]
			}
		}
	}`, `"pv1", 7
				]
			}
		}
	}`)
	})
	res := Scan(rig.disks())
	got := lvs(res)["vg/a"]
	if got.Err != nil || digest(content(t, got)) != digest(before) || len(got.LV.Disks) != 2 {
		t.Errorf("after the move: %+v, %v", got.LV, got.Err)
	}
	checkLVs(t, res, rig.want())
}

func replace(t testing.TB, s string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(s, pairs[i]) {
			t.Fatalf("no %q in\n%s", pairs[i], s)
		}
		s = strings.Replace(s, pairs[i], pairs[i+1], 1)
	}
	return s
}

// edit lets LVM's tools write changed metadata, which they check first.
func (rig *lvmRig) edit(group string, change func(string) string) {
	rig.t.Helper()
	path := filepath.Join(rig.t.TempDir(), "backup")
	rig.run("vgcfgbackup", "-q", "-q", "-f", path, group)
	text := change(string(load(rig.t, path)))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		rig.t.Fatal(err)
	}
	rig.run("vgcfgrestore", "-q", "-q", "--force", "-y", "-f", path, group)
}

// TestLVMMissingDisk leaves out each disk of three in turn.
func TestLVMMissingDisk(t *testing.T) {
	rig := threeDisks(t)
	rig.lv("my-vg", "only0", "-l", "3", rig.loops[0])
	rig.lv("my-vg", "only1", "-l", "3", rig.loops[1])
	want := rig.want()
	uuid := make(map[string]string)
	for _, r := range rig.rows("pvs", "pv_name,pv_uuid") {
		uuid[r["PV_NAME"]] = r["PV_UUID"]
	}
	for gone, whole := range []string{"my-vg/only1", "my-vg/only0", "my-vg/only0 my-vg/only1"} {
		all := rig.disks()
		res := Scan(append(append([]Disk(nil), all[:gone]...), all[gone+1:]...))
		dev := rig.loops[gone]
		if g := res.Groups; len(g) != 1 || len(g[0].Missing) != 1 || g[0].Missing[0] != uuid[dev]+" ("+dev+")" || len(g[0].Disks) != 2 {
			t.Fatalf("without disk %d: %+v", gone, g)
		}
		for name, v := range lvs(res) {
			switch {
			case strings.Contains(whole, name):
				if v.Err != nil || digest(content(t, v)) != digest(want[name]) {
					t.Errorf("without disk %d: %s: %v", gone, name, v.Err)
				}
			case v.Err == nil:
				t.Errorf("without disk %d: %s is served", gone, name)
			case errors.Is(v.Err, fsys.ErrUnsupported) || v.Disk == "":
				t.Errorf("without disk %d: %s on %q: %v", gone, name, v.Disk, v.Err)
			default:
				mustSay(t, uuid[dev], v.Err.Error())
			}
		}
		if len(lvs(res)) != len(want) {
			t.Errorf("without disk %d: %d volumes are told, want %d", gone, len(lvs(res)), len(want))
		}
	}
	// A volume beside it that another engine can open may hide the missing one.
	fixture.Need(t, "cryptsetup")
	luks := image(t, 20*mib, func(p string) {
		script(t, "key", "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file=-", p)
	})
	res := Scan(append(rig.disks()[:2], Disk{"crypt", extent.Bytes(load(t, luks))}))
	if err := lvs(res)["my-vg/two"].Err; !errors.Is(err, fsys.ErrUnsupported) || !strings.Contains(err.Error(), "whole of disk crypt (crypto_LUKS)") {
		t.Errorf("beside LUKS: %v", err)
	}
}

// TestLVMStaleCopies: the newest metadata is in force, on whichever disk it is.
func TestLVMStaleCopies(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib, 4*mib)
	rig.group("vg", rig.devices()...)
	rig.lv("vg", "a", "-i", "3", "-I", "4k", "-l", "9")
	old := load(t, rig.paths[0])
	rig.lv("vg", "b", "-l", "5", rig.loops[1])
	rig.run("lvextend", "-q", "-q", "-i", "1", "-l", "+4", "vg/a", rig.loops[2])
	want := rig.want()
	disks := rig.disks()
	disks[0].Reader = extent.Bytes(old)
	for range 3 {
		disks = append(disks[1:], disks[0])
		checkLVs(t, Scan(disks), want)
	}
	// A damaged copy is reported, and the others are used.
	torn := load(t, rig.paths[1])
	torn[4096+512+int(le64(torn[4096+40:]))-512+20] ^= 1
	res := Scan([]Disk{{"a", extent.Bytes(old)}, {"b", extent.Bytes(torn)}, {"c", extent.Bytes(load(t, rig.paths[2]))}})
	checkLVs(t, res, want)
	mustSay(t, "metadata text at byte 4096 is corrupt: its checksum does not match", res.Tables[1].Warnings...)
	// Both new copies damaged: the old one is all there is, and it is complete in itself.
	torn2 := load(t, rig.paths[2])
	torn2[4096+100] ^= 1
	res = Scan([]Disk{{"a", extent.Bytes(old)}, {"b", extent.Bytes(torn)}, {"c", extent.Bytes(torn2)}})
	if v := lvs(res); len(v) != 1 || v["vg/a"].Size() != 9*65536 {
		t.Errorf("%v", v)
	}
	// All damaged: nothing is guessed.
	old[4096+100] ^= 1
	res = Scan([]Disk{{"a", extent.Bytes(old)}, {"b", extent.Bytes(torn)}, {"c", extent.Bytes(torn2)}})
	if len(lvs(res)) > 0 || len(res.Groups) > 0 {
		t.Errorf("%v", res.Groups)
	}
	for _, v := range res.Volumes {
		if !errors.Is(v.Err, fsys.ErrCorrupt) || v.Reader != nil {
			t.Errorf("%s: %v", v.Disk, v.Err)
		}
	}
}

// TestLVMRemovedPV: a disk that the guest took out of the group while it was not attached still
// claims to be a part of it.
func TestLVMRemovedPV(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib)
	rig.group("vg", rig.devices()...)
	rig.lv("vg", "a", "-l", "5", rig.loops[0])
	old := load(t, rig.paths[1])
	rig.run("vgreduce", "-q", "-q", "-y", "vg", rig.loops[1])
	res := Scan([]Disk{{"new", extent.Bytes(load(t, rig.paths[0]))}, {"old", extent.Bytes(old)}})
	if got := lvs(res)["vg/a"]; got.Err != nil || len(res.Groups) != 1 || len(res.Groups[0].Missing) > 0 {
		t.Fatalf("%v, %+v", got.Err, res.Groups)
	}
	mustSay(t, "whole of disk old was a physical volume of this group", res.Groups[0].Warnings...)
	// As it is now, it is a physical volume of no group.
	res = Scan([]Disk{{"empty", extent.Bytes(load(t, rig.paths[1]))}})
	mustSay(t, "of no volume group that this backup describes", res.Tables[0].Warnings...)
	if v := res.Volumes[0]; v.Err != nil || v.Group != "" {
		t.Errorf("%+v", v)
	}
}

// TestLVMClones: a clone of a disk has the same UUIDs throughout.
func TestLVMClones(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib, 4*mib)
	devices := rig.devices()
	rig.group("one", devices[0])
	rig.lv("one", "a", "-l", "5")
	rig.group("two", devices[1:]...)
	rig.lv("two", "b", "-l", "5", devices[1])
	rig.lv("two", "c", "-l", "5", devices[2])
	rig.lv("two", "d", "-i", "2", "-I", "4k", "-l", "4")
	old := load(t, rig.paths[0])
	old[mib] = 'X'
	rig.lv("one", "new", "-l", "2")
	disks := rig.disks()

	// The whole group twice, each on its own disk.
	for _, ds := range [][]Disk{{disks[0], {"clone", extent.Bytes(old)}}, {{"clone", extent.Bytes(old)}, disks[0]}} {
		res := Scan(ds)
		got := make(map[string]byte)
		for _, v := range res.Volumes {
			if v.LV != nil {
				got[v.Disk+":"+v.Name] = content(t, v)[0]
			}
		}
		if fmt.Sprint(got) != "map[clone:one-a:88 disk0:one-a:100 disk0:one-new:100]" || len(res.Groups) != 2 {
			t.Errorf("%v %+v", got, res.Groups)
		}
		mustSay(t, "one is a clone of the other", res.Groups[0].Warnings...)
	}
	// One of two physical volumes twice: nobody can tell which belongs to the other.
	res := Scan([]Disk{disks[1], disks[2], {"clone", disks[1].Reader}})
	all := lvs(res)
	if v := all["two/c"]; v.Err != nil || len(all) != 3 {
		t.Errorf("c lies on no clone: %v", v.Err)
	}
	for _, name := range []string{"two/b", "two/d"} {
		if err := all[name].Err; err == nil || errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustSay(t, "exists 2 times (on the disks clone, disk1)", res.Groups[0].Warnings...)
	// Two backups of the same group are two scans: they never meet.
	now, then := Scan(disks[:1]), Scan([]Disk{{"disk0", extent.Bytes(old)}})
	if content(t, lvs(now)["one/a"])[0] != 'd' || content(t, lvs(then)["one/a"])[0] != 'X' || len(lvs(then)) != 1 {
		t.Error("two backups were mixed")
	}
	for _, res := range []Result{now, then} {
		if len(res.Groups) != 1 || len(res.Groups[0].Warnings) > 0 {
			t.Errorf("%+v", res.Groups)
		}
	}
}

// TestLVMSameName: two groups of one name, as when a disk of another VM is attached.
func TestLVMSameName(t *testing.T) {
	rig := newLVMRig(t, 4*mib, 4*mib)
	devices := rig.devices()
	rig.group("x", devices[0])
	rig.lv("x", "root", "-l", "5")
	rig.group("vg", devices[1])
	rig.lv("vg", "root", "-l", "5")
	rig.edit("x", func(s string) string { return s }) // proves that edit by itself changes nothing
	id := rig.rows("vgs", "vg_name,vg_uuid", "x")[0]["VG_UUID"]
	rig.run("vgrename", "-q", "-q", "x", "y")
	b := load(t, rig.paths[1])
	other := newLVMRig(t, 4*mib)
	other.group("y", other.devices()[0])
	other.lv("y", "root", "-l", "6")
	id2 := other.rows("vgs", "vg_name,vg_uuid", "y")[0]["VG_UUID"]
	res := Scan(append(append(other.disks(), Disk{"b", extent.Bytes(b)}), Disk{"c", extent.Bytes(load(t, rig.paths[0]))}))
	var got []string
	for _, v := range res.Volumes {
		if v.LV != nil && v.Err == nil {
			got = append(got, v.Name)
		}
	}
	if want := fmt.Sprintf("[y~%s-root vg-root y~%s-root]", id2, id); fmt.Sprint(got) != want || len(res.Groups) != 3 {
		t.Errorf("%v, want %v", got, want)
	}
	mustSay(t, "2 volume groups of this backup are called y", res.Groups[1].Warnings...)
}
