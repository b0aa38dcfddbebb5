package sample

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vmfr/test/fixture"
)

func TestSampleIsSmall(t *testing.T) {
	const limit = 1 << 20
	var total int64
	err := fs.WalkDir(files, ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	})
	if err != nil || total == 0 || total >= limit {
		t.Errorf("the embedded sample has %d bytes (%v), want below %d", total, err, limit)
	}
}

func TestOpen(t *testing.T) {
	fixture.Need(t, "qemu-img")
	m, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Images) != 2 {
		t.Fatalf("%d images, want 2", len(m.Images))
	}
	for _, i := range m.Images {
		f, err := i.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil || st.Size() != i.Size {
			t.Errorf("%s: %v, %v; want %d bytes", i.File, st, err, i.Size)
		}
		// The tool must accept what was unpacked.
		path := filepath.Join(t.TempDir(), i.File)
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, io.NewSectionReader(f, 0, i.Size)); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if i.Format == "qcow2" {
			fixture.Run(t, "qemu-img", "check", "-f", i.Format, path)
		}
	}
	first, second := m.Images[0].SHA256, m.Images[1].SHA256
	if first[m.Deleted] == "" || second[m.Deleted] != "" {
		t.Errorf("%s is not in the first backup alone", m.Deleted)
	}
	if first[m.Changed] == "" || second[m.Changed] == "" || first[m.Changed] == second[m.Changed] {
		t.Errorf("%s does not differ between the backups", m.Changed)
	}
}

// TestManifestMatchesDisk reads the first image's files with debugfs.
func TestManifestMatchesDisk(t *testing.T) {
	fixture.Need(t, "debugfs", "sha256sum")
	m, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	f, err := m.Images[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := filepath.Join(t.TempDir(), "part")
	b, err := io.ReadAll(io.NewSectionReader(f, 2<<20, 13<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range m.Images[0].SHA256 {
		out := filepath.Join(t.TempDir(), "file")
		fixture.Run(t, "debugfs", "-R", "dump "+path+" "+out, part)
		got, err := exec.Command("sha256sum", out).Output()
		if err != nil || !bytes.HasPrefix(got, []byte(want)) {
			t.Errorf("%s: %s (%v), want %s", path, got, err, want)
		}
	}
}
