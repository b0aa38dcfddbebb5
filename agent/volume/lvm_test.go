package volume

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// threeDisks is a group over a whole disk, a GPT partition and a logical MBR partition, with
// linear, segmented and striped volumes.
func threeDisks(t testing.TB) *lvmRig {
	t.Helper()
	fixture.Need(t, "sgdisk", "sfdisk")
	rig := newLVMRig(t, 16*mib, 20*mib, 20*mib)
	fixture.Run(t, "sgdisk", "-n", "1:2048:+1M", "-n", "2:4096:+16M", "-t", "2:8e00", rig.paths[1])
	script(t, "start=2048,size=36864,type=5\nstart=4096,size=32768,type=8e\n", "sfdisk", "-q", "--wipe=never", "-X", "dos", rig.paths[2])
	a, b, c := rig.device(0, 0, 0), rig.device(1, 2*mib, 16*mib), rig.device(2, 2*mib, 16*mib)
	rig.run("pvcreate", "-q", "-q", "-y", a)
	rig.run("pvcreate", "-q", "-q", "-y", "--pvmetadatacopies", "2", "--dataalignment", "192k", b)
	rig.run("pvcreate", "-q", "-q", "-y", "--pvmetadatacopies", "0", c)
	rig.run("vgcreate", "-q", "-q", "-s", "64k", "my-vg", a, b, c)
	rig.lv("my-vg", "root", "-l", "30", a)
	rig.lv("my-vg", "stri-ped", "-i", "3", "-I", "16k", "-l", "60")
	rig.lv("my-vg", "two", "-i", "2", "-I", "64k", "-l", "20", b, c)
	rig.lv("my-vg", "tiny_1.x", "-i", "3", "-I", "4k", "-l", "9")
	rig.run("lvextend", "-q", "-q", "-l", "+25", "my-vg/root", c)
	rig.lv("my-vg", "hole", "-l", "5", a)
	rig.run("lvextend", "-q", "-q", "-l", "+7", "my-vg/root", a)
	rig.run("lvremove", "-q", "-q", "-y", "my-vg/hole")
	rig.run("lvextend", "-q", "-q", "-l", "+10", "my-vg/root", b)
	rig.run("lvextend", "-q", "-q", "-i", "2", "-I", "32k", "-l", "+8", "my-vg/two", a, b)
	return rig
}

func TestLVMOverThreeDisks(t *testing.T) {
	rig := threeDisks(t)
	want := rig.want()
	res := Scan(rig.disks())
	checkLVs(t, res, want)
	if len(res.Groups) != 1 {
		t.Fatalf("%+v", res.Groups)
	}
	g := res.Groups[0]
	row := rig.rows("vgs", "vg_name,vg_uuid")[0]
	if g.Name != "my-vg" || g.UUID != row["VG_UUID"] || !slices.Equal(g.Disks, []string{"disk0", "disk1", "disk2"}) || len(g.Missing)+len(g.Warnings) > 0 {
		t.Errorf("group %+v, vgs says %v", g, row)
	}
	uuids := make(map[string]string)
	for _, r := range rig.rows("lvs", "lv_name,lv_uuid") {
		uuids[r["LV_NAME"]] = r["LV_UUID"]
	}
	var got []string
	for _, v := range res.Volumes {
		got = append(got, v.Disk+":"+v.Name+":"+v.Group)
		if v.LV != nil && v.LV.UUID != uuids[v.LV.Name] {
			t.Errorf("%s has UUID %q, lvs says %q", v.Name, v.LV.UUID, uuids[v.LV.Name])
		}
		if v.Name == "my--vg-two" && !slices.Equal(v.LV.Disks, []string{"disk0", "disk1", "disk2"}) {
			t.Errorf("two lies on %v", v.LV.Disks)
		}
	}
	order := "disk0:whole:my-vg disk0:my--vg-root: disk0:my--vg-stri--ped: disk0:my--vg-tiny_1.x: " +
		"disk1:p1: disk1:p2:my-vg disk1:my--vg-two: disk2:p5:my-vg"
	if s := strings.Join(got, " "); s != order {
		t.Errorf("volumes\n %s, want\n %s", s, order)
	}
	for _, table := range res.Tables {
		if table.Err != nil || len(table.Warnings) > 0 {
			t.Errorf("%+v", table)
		}
	}
	// The order of the disks decides nothing but the order of the result.
	disks := rig.disks()
	slices.Reverse(disks)
	res = Scan(disks)
	checkLVs(t, res, want)
	// Negative control: the comparison must notice a wrong extent.
	if want["my-vg/two"][0] ^= 1; t.Failed() {
		return
	}
	for _, v := range res.Volumes {
		if v.Name == "my--vg-two" && digest(content(t, v)) == digest(want["my-vg/two"]) {
			t.Error("a changed byte was not noticed")
		}
	}
}

// TestLVMLikeDeviceMapper lets the kernel of a libguestfs appliance activate the same group.
func TestLVMLikeDeviceMapper(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	fixture.Need(t, "guestfish")
	rig := threeDisks(t)
	var in strings.Builder
	for _, p := range rig.paths {
		fmt.Fprintf(&in, "add-drive %s readonly:true format:raw\n", p)
	}
	in.WriteString("run\n")
	res := Scan(rig.disks())
	var want []string
	for _, v := range res.Volumes {
		if v.LV != nil && v.Err == nil {
			fmt.Fprintf(&in, "checksum-device sha256 /dev/%s/%s\n", v.LV.Group, v.LV.Name)
			want = append(want, digest(content(t, v)))
		}
	}
	cmd := exec.Command("guestfish")
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg", "TMPDIR="+t.TempDir(), "LIBGUESTFS_CACHEDIR=/var/tmp")
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("guestfish: %v\n%s", err, out)
	}
	if got := strings.Fields(string(out)); len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("device-mapper reads\n%s\nwe read\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
