package ext4

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestEncrypted compares an encrypted tree with what the kernel shows of it without the key:
// coded names, and no content.
func TestEncrypted(t *testing.T) {
	fixture.NeedRoot(t)
	for _, options := range []string{"-b 1024", "-b 4096 -O inline_data", "-b 1024 -O ^dir_index"} {
		t.Run(options, func(t *testing.T) {
			img := fixture.Ext4(t, "", 64<<20, append(strings.Fields(options), "-O", "encrypt,stable_inodes")...)
			dir, err := fixture.TryMount(t, img, "ext4", "test_dummy_encryption=v2", 0, 0)
			if err != nil {
				t.Skipf("this kernel cannot make encrypted files: %v", err)
			}
			fillEncrypted(t, dir)
			fixture.Unmount(t, dir)

			dir = fixture.Mount(t, img, "ext4", "ro", 0, 0)
			fs := openImage(t, img)
			checkEncrypted(t, fs, dir)
			if len(fs.Info().Warnings) == 0 {
				t.Error("no warning that encrypted content cannot be read")
			}
		})
	}
}

func fillEncrypted(t *testing.T, dir string) {
	t.Helper()
	secret := filepath.Join(dir, "secret")
	for _, d := range []string{secret, secret + "/sub", secret + "/many"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 15, 16, 17, 32, 33, 141, 142, 143, 149, 150, 160, 161, 200, 255} {
		if err := os.WriteFile(filepath.Join(secret, "sub", strings.Repeat("n", n)), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		if err := os.WriteFile(fmt.Sprintf("%s/many/file %d", secret, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("the target", secret+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(secret+"/many/file 7", secret+"/hard"); err != nil {
		t.Fatal(err)
	}
}

func checkEncrypted(t *testing.T, fs *FS, mounted string) {
	t.Helper()
	seen := map[uint32]int{}
	err := filepath.WalkDir(mounted, func(p string, _ iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(mounted, p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		ino, err := fsystest.Find(fs, rel)
		if err != nil || uint64(ino) != st.Ino {
			t.Errorf("lookup %q: inode %d, %v; the kernel has %d", rel, ino, err, st.Ino)
			return nil
		}
		a, err := fs.Stat(ino)
		if err != nil || a.Mode != st.Mode || uint64(a.Nlink) != st.Nlink || a.Mtime.UnixNano() != st.Mtim.Nano() {
			t.Errorf("stat %q: %+v, %v", rel, a, err)
		}
		seen[a.Mode&fsys.ModeFmt]++
		switch {
		case a.IsRegular():
			_, err = fs.Open(ino)
		case a.IsSymlink():
			_, err = fs.Readlink(ino)
		default:
			ents, err := fsystest.ReadAll(fs, ino, 50)
			if err != nil {
				t.Errorf("list %q: %v", rel, err)
			}
			names, err := os.ReadDir(p)
			if err != nil || len(names) != len(ents) {
				t.Errorf("list %q: %d entries, the kernel has %d (%v)", rel, len(ents), len(names), err)
			}
			return nil
		}
		if !errors.Is(err, fsys.ErrNoKey) {
			t.Errorf("content of %q: %v, want ErrNoKey", rel, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen[fsys.ModeRegular] < 500 || seen[fsys.ModeSymlink] != 1 {
		t.Errorf("only %v were compared", seen)
	}
	ino, err := fsystest.Find(fs, "secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub", "many", "AAAA", strings.Repeat("A", 250)} {
		if _, err := fs.Lookup(ino, name); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("lookup of %q in an encrypted directory: %v", name, err)
		}
	}
}
