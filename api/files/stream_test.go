package files

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/engine"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// TestStreams: alternate data streams that ntfs-3g wrote, by ?stream= and as Windows names them.
func TestStreams(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "mkntfs", "ntfs-3g", "setfattr", "umount")
	img, mnt := filepath.Join(t.TempDir(), "ntfs.raw"), t.TempDir()
	fixture.Sparse(t, img, 16<<20)
	fixture.Run(t, "mkntfs", "-F", "-q", "-Q", "-p", "0", "-H", "0", "-S", "0", img)
	fixture.Run(t, "ntfs-3g", "-o", "streams_interface=xattr", img, mnt)
	mounted := true
	unmount := func() {
		if mounted {
			fixture.Run(t, "umount", mnt)
			mounted = false
		}
	}
	defer unmount()
	large := strings.Repeat("stream of clusters\n", 3000)
	writeFile(t, filepath.Join(mnt, "setup.exe"), []byte("main"))
	writeFile(t, filepath.Join(mnt, "plain"), []byte("main"))
	zone := "[ZoneTransfer]\r\nZoneId=3\r\n"
	fixture.Run(t, "setfattr", "-n", "user.Zone.Identifier", "-v", zone, filepath.Join(mnt, "setup.exe"))
	fixture.Run(t, "setfattr", "-n", "user.größe <b>", "-v", large, filepath.Join(mnt, "setup.exe"))
	// By Administrators and Users, for System all and for a domain's user reading.
	fixture.Run(t, "setfattr", "-n", "system.ntfs_acl", "-v", "0x0100048014000000240000000000000034000000"+"01020000000000052000000020020000"+"01020000000000052000000021020000"+
		"0200400002000000"+"00031400ff011f00010100000000000512000000"+"00002400890012000105000000000005150000000100000002000000"+"03000000f4010000", filepath.Join(mnt, "plain"))
	if got, err := os.ReadFile(filepath.Join(mnt, "setup.exe")); err != nil || string(got) != "main" {
		t.Fatal(err)
	}
	unmount()
	tr, err := tree.New(context.Background(), tree.Config{
		Backups: []tree.Backup{{Name: "nightly", Disks: []tree.Disk{{Name: "root", Format: "raw", Reader: openImage(t, img)}}}}, Engines: engine.Native(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	s := start(t, tr, nil)
	file := "/files" + disk + "/setup.exe"
	for path, want := range map[string]string{
		file: "main", file + "?stream=Zone.Identifier": zone, file + ":Zone.Identifier": zone,
		file + "?stream=gr%C3%B6%C3%9Fe%20%3Cb%3E": large, file + ":gr%C3%B6%C3%9Fe%20%3Cb%3E": large,
	} {
		a := s.get(path)
		if a.status != 200 || string(a.body) != want {
			t.Errorf("%s: %d, %d bytes, want %d", path, a.status, len(a.body), len(want))
		}
		if stream := path != file; stream && (a.header.Get("Content-Type") != binaryType || !strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment")) {
			t.Errorf("%s: %v", path, a.header)
		}
		if r := s.get(path, "Range: bytes=1-3"); r.status != 206 || string(r.body) != want[1:4] {
			t.Errorf("%s: a range: %d %q", path, r.status, r.body)
		}
	}
	const words = "O:BAG:BUD:(A;OICI;FA;;;SY)(A;;FR;;;S-1-5-21-1-2-3-500)"
	for path, parts := range map[string][]string{
		"/files" + disk + "/plain?stat=1":               {`"ownerName":"BUILTIN\\Administrators"`, `"group":"S-1-5-32-545"`, `"sddl":"` + words + `"`},
		"/api/v1/entries?path=" + disk + "&xattrs=true": {`"sddl":"` + words + `"`},
		"/browse" + disk + "/plain":                     {`BUILTIN\Administrators`, "S-1-5-32-545", words},
	} {
		a := s.get(path)
		for _, p := range parts {
			if a.status != 200 || !strings.Contains(string(a.body), p) {
				t.Errorf("%s: %d lacks %s: %s", path, a.status, p, a.body)
			}
		}
		template, _, _ := strings.Cut(path, "?")
		if strings.HasPrefix(path, "/files") {
			template = "/files/{path}"
		}
		if !strings.HasPrefix(path, "/browse") {
			if err := conforms(description(t), template, "GET", path, a); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	etags := map[string]bool{}
	for _, path := range []string{file, file + "?stream=Zone.Identifier", file + "?stream=gr%C3%B6%C3%9Fe%20%3Cb%3E"} {
		etags[s.get(path).header.Get("ETag")] = true
	}
	if len(etags) != 3 {
		t.Errorf("streams share an ETag: %v", etags)
	}
	for _, path := range []string{file + "?stream=none", file + ":none", "/files" + disk + "/plain?stream=Zone.Identifier", "/files" + disk + "/none:Zone.Identifier"} {
		s.get(path).problem(t, 404, "not_found")
	}
}
