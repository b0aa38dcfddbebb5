package files

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	"vmfr/agent/engine"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// TestSearchOfComposedSystem: a data disk that the guest mounts is shown twice and searched
// once, at its own place; below the mount point it is found by whoever searches there.
func TestSearchOfComposedSystem(t *testing.T) {
	src, data := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		"usr/lib/os-release": "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian\"\n", "etc/fstab": "/dev/vda / ext4 defaults 0 1\nLABEL=data /srv ext4 nofail 0 2\n", "wanted": "1",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(src, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(src, path), []byte(text))
	}
	for _, err := range []error{os.Mkdir(filepath.Join(src, "srv"), 0o755), os.Symlink("../usr/lib/os-release", filepath.Join(src, "etc/os-release")), os.Mkdir(filepath.Join(data, "deep"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(data, "deep", "wanted"), []byte("2"))
	b := tree.Backup{Name: "b"}
	for name, img := range map[string]string{"sys": fixture.Ext4(t, src, 16<<20), "two": fixture.Ext4(t, data, 16<<20, "-L", "data")} {
		b.Disks = append(b.Disks, tree.Disk{Name: name, Format: "raw", Reader: openImage(t, img)})
	}
	tr, err := tree.New(context.Background(), tree.Config{Backups: []tree.Backup{b}, Engines: []engine.Engine{native{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	if n, err := tr.Resolve("/backups/b/sys/srv/deep/wanted", true); err != nil || !tr.Alias(n) {
		t.Fatalf("the data disk is not composed into the system: %v", err)
	}
	s := start(t, tr, nil)
	for query, want := range map[string][]string{
		"":                              {"/backups/b/sys/wanted", "/backups/b/two/deep/wanted"},
		"&backup=b":                     {"/backups/b/sys/wanted", "/backups/b/two/deep/wanted"},
		"&path=/backups/b/sys":          {"/backups/b/sys/wanted"},
		"&path=/backups/b/sys/srv":      {"/backups/b/sys/srv/deep/wanted"},
		"&path=/backups/b/sys/srv/deep": {"/backups/b/sys/srv/deep/wanted"},
		"&path=/backups/b/two":          {"/backups/b/two/deep/wanted"},
	} {
		lines := ndjson[searchRow](t, s.get("/api/v1/search?name=wanted"+query))
		var got []string
		for _, l := range lines[:len(lines)-1] {
			got = append(got, l.Path)
		}
		sort.Strings(got)
		if !slices.Equal(got, want) || !lines[len(lines)-1].Complete {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

// TestSearchNamesDisksItLacks: a disk that cannot be read is no empty disk.
func TestSearchNamesDisksItLacks(t *testing.T) {
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "wanted"), nil)
	blank := filepath.Join(t.TempDir(), "blank")
	fixture.Sparse(t, blank, 16<<20)
	s := start(t, openTree(t, map[string]string{"good": fixture.Ext4(t, src, 16<<20), "bad": blank}), nil)
	lines := ndjson[searchRow](t, s.get("/api/v1/search?name=wanted"))
	if len(lines) != 3 || lines[0].Event != "error" || lines[0].Path != "/backups/nightly/bad" || lines[1].Path != "/backups/nightly/good/wanted" || lines[2].Complete || lines[2].Errors != 1 {
		t.Errorf("%+v", lines)
	}
}
