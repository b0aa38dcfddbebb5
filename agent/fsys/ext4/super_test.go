package ext4

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// poke overwrites bytes of an image.
func poke(t testing.TB, img string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestBackups damages the primary superblock or group descriptors: the backups serve, whatever
// layout decides where they are, and the file system's owner is told.
func TestBackups(t *testing.T) {
	for _, c := range []struct {
		options string
		hurt    func(*super) (off int64, b []byte)
		warning string
	}{
		{"-b 4096 -g 4096", badLabel, "copy in block group 1"},
		{"-b 1024", badLabel, "copy in block group 1"},
		{"-b 1024 -O sparse_super2 -E num_backup_sb=1", badLabel, "copy in block group 1"},
		{"-b 1024 -O bigalloc -C 4096 -g 8192", badLabel, "copy in block group 1"},
		{"-b 1024 -O meta_bg,^resize_inode -g 2048", badLabel, "copy in block group 1"},
		{"-b 4096 -g 4096 -O ^metadata_csum", badSize, "copy in block group"},
		{"-t ext2 -b 1024", badSize, "copy in block group"},
		{"-t ext3 -b 2048 -g 8192", badCount, "copy in block group 1"},
		{"-b 4096 -g 4096", badTable, ""},
		{"-b 1024 -O ^metadata_csum,uninit_bg", badTable, ""},
		{"-t ext2 -b 1024", badTable, ""},
		{"-b 1024 -O meta_bg,^resize_inode -g 1024", badTable, ""},
		{"-b 1024 -O bigalloc -C 4096 -g 8192", badTable, ""},
		{"-b 1024 -O sparse_super2", badTable, ""},
	} {
		t.Run(c.options+" "+c.warning, func(t *testing.T) {
			img := fixture.Ext4(t, "", 64<<20, strings.Fields(c.options)...)
			dir := fixture.Mount(t, img, "ext4", "rw,noatime", 0, 0)
			newPopulator(t, dir, 1024).directories()
			want := fixture.Manifest(t, dir)
			fixture.Unmount(t, dir)
			off, b := c.hurt(openImage(t, img).sb)
			poke(t, img, off, b)

			fs := openImage(t, img)
			fsystest.Run(t, fs, want)
			all := strings.Join(fs.Info().Warnings, "\n")
			if !strings.Contains(all, c.warning) || c.warning == "" && strings.Contains(all, "superblock") {
				t.Errorf("warnings %q, want %q", all, c.warning)
			}
		})
	}
}

func badLabel(*super) (int64, []byte) { return superOffset + 0x78, []byte("x") }
func badSize(*super) (int64, []byte)  { return superOffset + 0x18, []byte{99, 0, 0, 0} }
func badCount(*super) (int64, []byte) { return superOffset + 0x00, []byte{1, 2, 3, 4} }

// badTable clears the first block of group descriptors.
func badTable(s *super) (int64, []byte) {
	b, _ := s.descBlock(0, 0)
	return int64(b * s.blockSize), make([]byte, s.blockSize)
}

// TestBackupOfDirty: a backup superblock never says that the journal is to be replayed, so the
// journal is asked.
func TestBackupOfDirty(t *testing.T) {
	img, want := dirtyBackup(t)
	// What the journal holds may be home already when the image is copied: the kernel writes back every
	// few seconds, and all of it whenever anybody on the machine calls sync.
	for n := 1; n < 10 && sameWithout(t, img, want); n++ {
		img, want = dirtyBackup(t)
	}
	fs := openImage(t, img)
	if j := fs.Info().Journal; !strings.HasPrefix(j, "replayed") {
		t.Errorf("journal %q", j)
	}
	fsystest.Run(t, fs, want)
	if sameWithout(t, img, want) {
		t.Error("the tree is the same without the journal: this test shows nothing")
	}
}

// dirtyBackup is a file system that crashed and lost its first superblock, and what the kernel made
// of it when it had that.
func dirtyBackup(t *testing.T) (string, fsystest.Manifest) {
	t.Helper()
	img := fixture.Ext4(t, "", 64<<20, "-b", "1024")
	dir := fixture.Mount(t, img, "ext4", "rw,noatime", 0, 0)
	newPopulator(t, dir, 1024).directories()
	fixture.Shutdown(t, dir, true)
	img = fixture.Copy(t, img) // before unmounting, which would bring the blocks home
	fixture.Unmount(t, dir)

	recovered := fixture.Copy(t, img)
	dir = fixture.Mount(t, recovered, "ext4", "rw,noatime", 0, 0)
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)

	poke(t, img, superOffset+0x80, []byte("damage"))
	return img, want
}

// sameWithout tells whether a tree is the same without the journal.
func sameWithout(t *testing.T, img string, want fsystest.Manifest) bool {
	t.Helper()
	fs, err := Open(fixture.OpenDevice(t, img), Options{NoReplay: true})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := fsystest.WalkFS(fs)
	return len(fsystest.Diff(want, got)) == 0
}

// superWith is an image's superblock area with 32-bit fields changed and the checksum made good.
func superWith(t testing.TB, img string, fields map[int]uint32) extent.Reader {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	s := b[superOffset : superOffset+superSize]
	for at, v := range fields {
		binary.LittleEndian.PutUint32(s[at:], v)
	}
	binary.LittleEndian.PutUint32(s[0x3FC:], crc32c(^uint32(0), s[:0x3FC]))
	return extent.Bytes(b)
}

// TestRefused: what cannot be read right is refused by name, and what is not ext4 is left to others.
func TestRefused(t *testing.T) {
	img := fixture.Ext4(t, "", 2<<20, "-b", "1024", "-O", "^has_journal")
	fs := openImage(t, img)
	incompat, compat, ro := fs.sb.incompat, fs.sb.compat, fs.sb.roCompat
	for _, c := range []struct {
		name   string
		fields map[int]uint32
		is     error
		says   string
	}{
		{"compression", map[int]uint32{0x60: incompat | 0x1}, fsys.ErrUnsupported, "compression"},
		{"journal device", map[int]uint32{0x60: incompat | 0x8}, fsys.ErrUnsupported, "journal_dev"},
		{"dirdata", map[int]uint32{0x60: incompat | 0x1000}, fsys.ErrUnsupported, "dirdata"},
		{"unknown", map[int]uint32{0x60: incompat | 1<<31}, fsys.ErrUnsupported, "0x80000000"},
		{"external journal, dirty", map[int]uint32{0x5C: compat | compatHasJournal, 0x60: incompat | incompatRecover, 0xE4: 0x801}, fsys.ErrUnsupported, "another device"},
		{"recovery without journal", map[int]uint32{0x60: incompat | incompatRecover}, fsys.ErrCorrupt, "no journal"},
		{"no blocks in a group", map[int]uint32{0x20: 0}, fsys.ErrCorrupt, "blocks per group"},
		{"blocks in the wrong number", map[int]uint32{0x04: 1 << 31}, fsys.ErrCorrupt, "inodes in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(superWith(t, img, c.fields), Options{})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
	fs, err := Open(superWith(t, img, map[int]uint32{0x64: ro | 1<<30}), Options{})
	if err != nil || !strings.Contains(strings.Join(fs.Info().Warnings, "\n"), "0x40000000") {
		t.Errorf("an unknown read-only feature: %v", err)
	}
	fs, err = Open(superWith(t, img, map[int]uint32{0x5C: compat | compatHasJournal, 0xE4: 0x801}), Options{})
	if err != nil || fs.Info().Journal != "clean" {
		t.Errorf("a clean external journal: %v", err)
	}
	for _, r := range []extent.Reader{extent.Zeros(0), extent.Zeros(2000), extent.Zeros(1 << 20)} {
		if _, err := Open(r, Options{}); !errors.Is(err, fsys.ErrNotRecognized) {
			t.Errorf("%d zeros: %v", r.Size(), err)
		}
	}
}

// TestTruncated: of an image that was cut off, what is left can be read, and the rest is an error.
func TestTruncated(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(src+"/early", []byte("early"), 0o644); err != nil {
		t.Fatal(err)
	}
	img := fixture.Ext4(t, src, 32<<20, "-b", "1024")
	if err := os.Truncate(img, 12<<20); err != nil {
		t.Fatal(err)
	}
	fs := openImage(t, img)
	if w := strings.Join(fs.Info().Warnings, "\n"); !strings.Contains(w, "behind the end") {
		t.Errorf("warnings %q", w)
	}
	ino, err := fs.Lookup(fs.Root(), "early")
	if err != nil {
		t.Fatal(err)
	}
	r, err := fs.Open(ino)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if n, err := r.ReadAt(b, 0); n != 5 || string(b) != "early" {
		t.Errorf("%q, %v", b, err)
	}
}
