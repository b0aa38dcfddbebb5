package xfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// smallImage is a mountable image with a few objects, and its manifest.
func smallImage(t *testing.T, opts ...string) (string, fsystest.Manifest) {
	t.Helper()
	img := makeImage(t, 320<<20, opts...)
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	fillBase(t, dir)
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)
	return img, want
}

// overlaid is an image with other bytes in some places.
func overlaid(t *testing.T, img string, patches ...extent.Patch) extent.Reader {
	t.Helper()
	r, err := extent.Overlay(fixture.OpenRaw(t, img), patches)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBackupSuperblock(t *testing.T) {
	for _, opts := range [][]string{{"-d", "agcount=2"}, {"-b", "size=1024"}, {"-d", "agcount=7", "-s", "size=4096"}} {
		img, want := smallImage(t, opts...)
		primary := make([]byte, 512)
		if err := extent.ReadAllAt(fixture.OpenRaw(t, img), primary, 0); err != nil {
			t.Fatal(err)
		}
		for name, damage := range map[string]func([]byte){
			"checksum":      func(b []byte) { b[130] ^= 1 },
			"sizes":         func(b []byte) { clear(b[4:8]); clear(b[120:128]) },
			"all but magic": func(b []byte) { clear(b[4:]) },
		} {
			b := bytes.Clone(primary)
			damage(b)
			fs, err := Open(overlaid(t, img, extent.Patch{Off: 0, Data: extent.Bytes(b)}), Options{})
			if err != nil {
				// Groups of an unusual number are found only by the superblock's own words.
				if name == "all but magic" && opts[0] == "-d" && errors.Is(err, fsys.ErrCorrupt) {
					continue
				}
				t.Errorf("%q, %s: %v", opts, name, err)
				continue
			}
			if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "the copy in allocation group") {
				t.Errorf("%q, %s: warnings %q", opts, name, w)
			}
			got, err := fsystest.WalkFS(fs)
			if err != nil {
				t.Error(err)
			}
			for _, d := range fsystest.Diff(want, got) {
				t.Error(d)
			}
		}
		if _, err := Open(overlaid(t, img, extent.Patch{Off: 0, Data: extent.Bytes([]byte("nothing"))}), Options{}); !errors.Is(err, fsys.ErrNotRecognized) {
			t.Errorf("without the magic: %v", err)
		}
	}
}

// TestNewUUID: xfs_admin -U changes the volume's UUID and leaves that of the metadata.
func TestNewUUID(t *testing.T) {
	fixture.Need(t, "xfs_admin")
	img, want := smallImage(t)
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	fixture.Run(t, "xfs_admin", "-U", uuid, img)
	fs := openImage(t, img)
	if fs.Info().UUID != uuid || fs.sb.uuid == fs.sb.metaUUID {
		t.Errorf("UUID %s, %+v", fs.Info().UUID, fs.sb)
	}
	fsystest.Run(t, fs, want)
}

// TestGrown: xfs_growfs adds groups, the last one short.
func TestGrown(t *testing.T) {
	fixture.Need(t, "xfs_growfs")
	img, _ := smallImage(t, "-d", "agcount=3")
	if err := os.Truncate(img, 777<<20); err != nil {
		t.Fatal(err)
	}
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	fixture.Run(t, "xfs_growfs", dir)
	for i := range 30 { // new directories spread over the groups
		if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d", i+1), "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat("d", i+1), "file"), bytes.Repeat([]byte{byte(i)}, 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)
	fs := openImage(t, img)
	if fs.sb.agCount <= 3 || fs.sb.blocks != 777<<20/4096 {
		t.Errorf("%+v", fs.sb)
	}
	fsystest.Run(t, fs, want)
}

func TestElsewhere(t *testing.T) {
	fixture.Need(t, "mkfs.xfs")
	other := filepath.Join(t.TempDir(), "other")
	for name, c := range map[string]struct {
		options []string
		err     error
	}{
		"log on another device":     {[]string{"-l", "logdev=" + other + ",size=64m"}, fsys.ErrUnsupported},
		"realtime device beside it": {[]string{"-r", "rtdev=" + other + ",size=64m"}, nil},
	} {
		fixture.Sparse(t, other, 64<<20)
		fs, err := Open(fixture.OpenDevice(t, makeImage(t, 320<<20, c.options...)), Options{})
		if !errors.Is(err, c.err) || errors.Is(err, fsys.ErrNotRecognized) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (len(fs.Info().Warnings) != 1 || !strings.Contains(fs.Info().Warnings[0], "realtime")) {
			t.Errorf("%s: warnings %q", name, fs.Info().Warnings)
		}
	}
}

// TestShortDevice: what lies before the end of a cut device still reads, and Info says so.
func TestShortDevice(t *testing.T) {
	img, _ := smallImage(t)
	if err := os.Truncate(img, 300<<20); err != nil {
		t.Fatal(err)
	}
	fs := openImage(t, img)
	if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "the device has 314572800 bytes") {
		t.Errorf("warnings %q", w)
	}
	if err := survey(fs); err != nil && !ofKnownKind(err) {
		t.Error(err)
	}
	if _, err := fsystest.Find(fs, "good"); err != nil {
		t.Error(err)
	}
}

// TestFeatureBits: features that concern writing only are told, those of reading are refused.
func TestFeatureBits(t *testing.T) {
	h := newHostile(t)
	bits := func(off int, set uint32) (*FS, error) {
		h.restore()
		h.put32(off, binary.BigEndian.Uint32(h.b[off:])|set)
		h.sealSuper()
		return Open(extent.Bytes(h.b), Options{})
	}
	if fs, err := bits(212, 0x100); err != nil || !strings.Contains(strings.Join(fs.Info().Warnings, "\n"), "feature 0x100") {
		t.Errorf("a read-only compatible feature: %v", err)
	}
	for bit := uint32(1); bit != 0; bit <<= 1 {
		_, err := bits(216, bit)
		switch {
		case bit == incompatNeedsRepair:
			if !errors.Is(err, fsys.ErrCorrupt) {
				t.Errorf("in need of repair: %v", err)
			}
		case bit&incompatKnown == 0:
			if !errors.Is(err, fsys.ErrUnsupported) {
				t.Errorf("incompatible feature %#x: %v", bit, err)
			}
		case bit != incompatMetaUUID && err != nil:
			t.Errorf("incompatible feature %#x: %v", bit, err)
		}
	}
}

// TestBackupSuperblockDirty: with the copy, a dirty log is replayed all the same, and the copy stays
// in use: the replay writes a right checksum over the damage.
func TestBackupSuperblockDirty(t *testing.T) {
	img := dirtyImage(t, 320<<20, nil, true, churnSynced(7, 300))
	want, err := fsystest.WalkFS(openImage(t, img))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	if err := extent.ReadAllAt(fixture.OpenRaw(t, img), b, 0); err != nil {
		t.Fatal(err)
	}
	b[87]++ // blocks in a group
	fs, err := Open(overlaid(t, img, extent.Patch{Off: 0, Data: extent.Bytes(b)}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	info := fs.Info()
	if len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "copy in allocation group") || !strings.HasPrefix(info.Journal, "replayed") {
		t.Errorf("%+v", info)
	}
	got, err := fsystest.WalkFS(fs)
	if err != nil {
		t.Error(err)
	}
	for _, d := range fsystest.Diff(want, got) {
		t.Error(d)
	}
}
