package ntfs

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// link makes a junction (of a directory) or a symbolic link.
func link(t testing.TB, path string, tag uint32, target string, flags uint32) {
	t.Helper()
	if tag == tagMountPoint || strings.HasPrefix(filepath.Base(path), "All") { // one to a directory is a directory
		check(t, os.Mkdir(path, 0o755))
	} else {
		check(t, os.WriteFile(path, nil, 0o644))
	}
	setReparse(t, path, reparseLink(tag, target, flags))
}

// windows makes the part of a system volume that tells it.
func windows(t testing.TB, dir, letter string) {
	t.Helper()
	write(t, filepath.Join(dir, "Windows/System32/config/SOFTWARE"), []byte("regf"))
	write(t, filepath.Join(dir, "Users/Public/Documents/file.txt"), []byte("public"))
	write(t, filepath.Join(dir, "ProgramData/App/data"), []byte("data"))
	link(t, filepath.Join(dir, "Documents and Settings"), tagMountPoint, `\??\`+letter+`:\Users`, 0)
}

// TestWindowsTree compares links into the volume with what ntfs-3g makes of them.
func TestWindowsTree(t *testing.T) {
	img := makeNTFS(t, 64<<20)
	dir := mount(t, img)
	windows(t, dir, "C")
	p := func(s string) string { return filepath.Join(dir, s) }
	link(t, p("Users/All Users"), tagSymlink, `\??\C:\ProgramData`, 0)
	link(t, p("Users/Public/My Documents"), tagMountPoint, `\??\C:\users\PUBLIC\documents`, 0)
	link(t, p("Users/Public/relative"), tagSymlink, `Documents\file.txt`, symlinkRelative)
	link(t, p("Users/Public/up"), tagSymlink, `..\..\ProgramData\App\data`, symlinkRelative)
	link(t, p("Users/Public/rooted"), tagSymlink, `\programdata\app\data`, symlinkRelative)
	unmount(t, img, dir)
	want := manifest(t, img)
	for path, target := range map[string]string{ // the oracle's own words, that the comparison can be trusted
		"Documents and Settings":    "Users",
		"Users/All Users":           "../ProgramData",
		"Users/Public/My Documents": "../../Users/Public/Documents",
		"Users/Public/up":           "../../ProgramData/App/data",
		"Users/Public/rooted":       "../../ProgramData/App/data",
	} {
		if want[path].Target != target {
			t.Errorf("ntfs-3g's target of %q is %q", path, want[path].Target)
		}
	}
	fsystest.Run(t, openImage(t, img), want)
}

// TestLinkTargets: what a link is shown as where ntfs-3g has no say, on a volume with Windows and
// on one without.
func TestLinkTargets(t *testing.T) {
	type target struct {
		tag    uint32
		target string
		flags  uint32
		want   string // on the volume with Windows
		data   string // on the other; empty: the same
	}
	cases := map[string]target{
		"junction":            {tagMountPoint, `\??\C:\users\public`, 0, "../Users/Public", `\??\C:\users\public`},
		"dangling":            {tagMountPoint, `\??\C:\Gone\x`, 0, "../Gone/x", `\??\C:\Gone\x`},
		"half there":          {tagMountPoint, `\??\c:\USERS\Gone\..\y`, 0, "../Users/Gone/../y", `\??\c:\USERS\Gone\..\y`},
		"other drive":         {tagMountPoint, `\??\D:\users\public`, 0, `\??\D:\users\public`, "../Users/Public"},
		"other drive missing": {tagMountPoint, `\??\D:\nothing`, 0, `\??\D:\nothing`, ""},
		"volume":              {tagMountPoint, `\??\Volume{01234567-89ab-cdef-0123-456789abcdef}\`, 0, `\??\Volume{01234567-89ab-cdef-0123-456789abcdef}\`, ""},
		"share":               {tagSymlink, `\??\UNC\server\share\x`, 0, `\??\UNC\server\share\x`, ""},
		"root":                {tagMountPoint, `\??\C:\`, 0, "..", `\??\C:\`},
		"bare drive":          {tagMountPoint, `\??\C:`, 0, "..", `\??\C:`},
		"relative":            {tagSymlink, `..\users\.\PUBLIC\\documents`, 1, "../Users/Public/Documents", ""},
		"relative dangling":   {tagSymlink, `x\..\y`, 1, "x/../y", ""},
		"out of the volume":   {tagSymlink, `..\..\..\etc\passwd`, 1, `..\..\..\etc\passwd`, ""},
		"out behind unknown":  {tagSymlink, `x\..\..\..\..\etc`, 1, `x\..\..\..\..\etc`, ""},
		"rooted":              {tagSymlink, `\USERS`, 1, "../Users", ""},
		"rooted dangling":     {tagSymlink, `\nowhere\x`, 1, "../nowhere/x", ""},
		"rooted out":          {tagSymlink, `\..\x`, 1, `\..\x`, ""},
		"through a file":      {tagSymlink, `..\Users\Public\Documents\FILE.TXT\x`, 1, "../Users/Public/Documents/file.txt/x", ""},
		"slash":               {tagSymlink, `..\a/b`, 1, `..\a/b`, ""},
		"itself":              {tagSymlink, `.`, 1, `.`, ""},
	}
	for _, system := range []bool{true, false} {
		img := makeNTFS(t, 32<<20)
		dir := mount(t, img)
		if system {
			windows(t, dir, "C")
		} else {
			write(t, filepath.Join(dir, "Users/Public/Documents/file.txt"), nil)
		}
		check(t, os.Mkdir(filepath.Join(dir, "links"), 0o755))
		for name, c := range cases {
			link(t, filepath.Join(dir, "links", name), c.tag, c.target, c.flags)
		}
		unmount(t, img, dir)
		fs := openImage(t, img)
		for name, c := range cases {
			want := c.want
			if !system && c.data != "" {
				want = c.data
			}
			ino := find(t, fs, "links/"+name)
			got, err := fs.Readlink(ino)
			if err != nil || got != want {
				t.Errorf("windows %v, %q to %q: %q, %v; want %q", system, name, c.target, got, err, want)
			}
			if a, err := fs.Stat(ino); err != nil || !a.IsSymlink() || a.Size != int64(len(want)) {
				t.Errorf("%q: %+v, %v", name, a, err)
			}
		}
	}
}

// TestSystemLetter: Windows' own junction tells the letter of the volume that it is on.
func TestSystemLetter(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img)
	windows(t, dir, "E")
	link(t, filepath.Join(dir, "own"), tagMountPoint, `\??\e:\programdata`, 0)
	link(t, filepath.Join(dir, "other"), tagMountPoint, `\??\C:\ProgramData`, 0)
	unmount(t, img, dir)
	fs := openImage(t, img)
	for name, want := range map[string]string{"own": "ProgramData", "other": `\??\C:\ProgramData`} {
		if got, err := fs.Readlink(find(t, fs, name)); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestReparseTags: files whose content is elsewhere are listed and refused, each with its reason,
// and those of WSL are what they stand for.
func TestReparseTags(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img)
	p := func(s string) string { return filepath.Join(dir, s) }
	refused := map[string]uint32{
		"WOF": tagWOF, "deduplicated": tagDedup, "OneDrive": 0x9000601A, "container": 0x80000018, "HSM": 0xC0000004,
		"only the program": 0x80001234,
	}
	for name, tag := range refused {
		f, err := os.Create(p(name))
		check(t, err)
		check(t, f.Truncate(200_000)) // sparse, as stubs are
		_, err = f.WriteAt([]byte("end"), 100_000)
		check(t, err)
		check(t, f.Close())
		setReparse(t, p(name), reparsePoint(tag, []byte("whatever")))
	}
	write(t, p("hydrated"), []byte("kept on this device"))
	setReparse(t, p("hydrated"), reparsePoint(0x9000601A, []byte("whatever")))
	write(t, p("wsl"), nil)
	setReparse(t, p("wsl"), reparsePoint(tagLxSymlink, append([]byte{2, 0, 0, 0}, "/home/ü"...)))
	check(t, os.Mkdir(p("cloud directory"), 0o755))
	write(t, p("cloud directory/file"), []byte("here"))
	unmount(t, img, dir)

	fs := openImage(t, img)
	for name, tag := range refused {
		ino := find(t, fs, name)
		if a, err := fs.Stat(ino); err != nil || !a.IsRegular() || a.Size != 200_000 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if _, err := fs.Open(ino); !errors.Is(err, fsys.ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		x, err := fs.Xattrs(ino)
		if err != nil || binary.LittleEndian.Uint32(x[xattrReparse]) != tag {
			t.Errorf("%s: %q, %v", name, x, err)
		}
	}
	if r, err := fs.Open(find(t, fs, "hydrated")); err != nil || r.Size() != 19 {
		t.Errorf("a cloud file that is here: %v", err)
	}
	if got, err := fs.Readlink(find(t, fs, "wsl")); err != nil || got != "/home/ü" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWSL: the special files of WSL, as ntfs-3g makes them when asked to.
func TestWSL(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img, "special_files=wsl")
	p := func(s string) string { return filepath.Join(dir, s) }
	check(t, os.Symlink("some/where ü", p("link")))
	check(t, unix.Mkfifo(p("fifo"), 0o600))
	check(t, unix.Mknod(p("socket"), unix.S_IFSOCK|0o600, 0))
	check(t, unix.Mknod(p("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(8, 17))))
	check(t, unix.Mknod(p("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 1000))))
	unmount(t, img, dir)
	want := manifest(t, img)
	for path, e := range want { // it leaves their permissions out
		e.Mode |= 0o777
		want[path] = e
	}
	if e := want["block"]; e.Mode != fsys.ModeBlock|0o777 || e.Major != 259 {
		t.Fatalf("%+v", e)
	}
	fsystest.Run(t, openImage(t, img), want)
}
