package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// overlay makes an empty image that names backing, whatever that is, of 1 MiB.
func overlay(t testing.TB, img, backing, format string) {
	t.Helper()
	record := format
	if record == "" {
		record = "raw"
	}
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", record, img, "1M")
	if format == "" {
		dropBackingFormat(t, img)
	}
}

// dropBackingFormat makes the backing format extension an unknown one: qemu-img no longer
// creates an image without it.
func dropBackingFormat(t testing.TB, img string) {
	t.Helper()
	b := readFile(t, img)
	for off := 104; off < 4096; off += 8 {
		if v := (&victim{b: b}); v.get(int64(off))>>32 == extBackingFormat {
			v.u32(off, 0x11111111)
		}
	}
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBackingRefused: names and formats that are not followed, each with its reason.
func TestBackingRefused(t *testing.T) {
	fixture.Need(t, "qemu-img")
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret.raw")
	writeFile(t, secret, guestBytes(5, 1<<20))
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "base.raw"), guestBytes(6, 1<<20))
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"abs": secret, "rel": "../" + filepath.Base(outside) + "/secret.raw"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, format, text string
		want               error
		noDir              bool
	}{
		{name: "../../etc/shadow", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: "/etc/shadow", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: "folder/x", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: "./base.raw", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: "..", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: ".", format: "raw", want: ErrUnsupported, text: "path is not followed"},
		{name: `json:{"driver":"raw"}`, format: "raw", want: ErrUnsupported, text: "protocol"},
		{name: "nbd:127.0.0.1:10809", format: "raw", want: ErrUnsupported, text: "protocol"},
		{name: "file:base.raw", format: "raw", want: ErrUnsupported, text: "protocol"},
		{name: "folder", format: "raw", want: ErrUnsupported, text: "is a directory"},
		{name: "pipe", format: "raw", want: ErrUnsupported, text: "is a pipe"},
		{name: "abs", format: "raw", text: "escapes"},
		{name: "rel", format: "raw", text: "escapes"},
		{name: "missing", format: "raw", want: fs.ErrNotExist, text: "beside the top image"},
		{name: "base.raw", format: "", want: ErrUnsupported, text: "does not tell its format"},
		{name: "base.raw", format: "vmdk", want: ErrUnsupported, text: `"vmdk"`},
		{name: "base.raw", format: "qcow2", want: ErrCorrupt, text: "no qcow2 signature"},
		{name: "base.raw", format: "raw", want: ErrUnsupported, text: "no folder is known", noDir: true},
		{name: "self.qcow2", format: "qcow2", want: ErrCorrupt, text: "its own backing file"},
		{name: "self.qcow2", format: "raw", want: ErrCorrupt, text: "its own backing file"},
	} {
		t.Run(c.name+" as "+c.format, func(t *testing.T) {
			img := filepath.Join(dir, "self.qcow2")
			_ = os.Remove(img)
			overlay(t, img, c.name, c.format)
			o := Options{Dir: openRoot(t, dir)}
			if c.noDir {
				o.Dir = nil
			}
			m, err := Open(Source{openFile(t, img), FormatQCOW2}, o)
			if err == nil {
				m.Close()
				t.Fatal("opened")
			}
			if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v; want %v and %q", err, c.want, c.text)
			}
		})
	}
}

// TestDetectedHasNoBacking: a header that a guest wrote onto its raw disk leads nowhere, and
// saying format=qcow2 or format=raw decides.
func TestDetectedHasNoBacking(t *testing.T) {
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	base, img := filepath.Join(dir, "base.raw"), filepath.Join(dir, "top.qcow2")
	want := guestBytes(6, 1<<20)
	writeFile(t, base, want)
	overlay(t, img, "base.raw", "raw")
	root := openRoot(t, dir)
	for _, o := range []Options{{Dir: root}, {Backing: []Source{{openFile(t, base), FormatRaw}}}} {
		_, err := Open(Source{File: openFile(t, img)}, o)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "format=qcow2") {
			t.Fatalf("detected: %v", err)
		}
		m, err := Open(Source{openFile(t, img), FormatQCOW2}, o)
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, "through the overlay", readAll(t, m, 64<<10), want)
		if i := m.Info(); i.Detected || len(i.Layers) != 2 || i.Layers[1].Format != FormatRaw {
			t.Fatalf("%+v", i)
		}
		m.Close()
	}
	m, err := Open(Source{openFile(t, img), FormatRaw}, Options{Dir: root})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sameBytes(t, "as raw", readAll(t, m, 64<<10), readFile(t, img))
}

// TestExplicitChain: what is handed over goes before what headers name, and every file of it
// must have a place and a format.
func TestExplicitChain(t *testing.T) {
	fixture.Need(t, "qemu-img")
	top, below := t.TempDir(), t.TempDir()
	base, mid, img := filepath.Join(below, "base.raw"), filepath.Join(below, "mid"), filepath.Join(top, "top.qcow2")
	want := guestBytes(7, 1<<20)
	writeFile(t, base, want)
	overlay(t, mid, "/nowhere/base.raw", "")
	overlay(t, img, "/etc/shadow", "raw")
	given := []Source{{openFile(t, mid), FormatQCOW2}, {openFile(t, base), FormatRaw}}
	m, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{Backing: given})
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "explicit chain", readAll(t, m, 64<<10), want)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := given[1].File.Stat(); err != nil {
		t.Fatalf("Close closed a file that was handed in: %v", err)
	}
	for _, c := range []struct {
		text    string
		backing []Source
	}{
		{"or without its format", []Source{{File: given[0].File}, given[1]}},
		{"path is not followed", given[:1]},
		{"has no backing file", append(given[:2:2], Source{openFile(t, img), FormatRaw})},
		{"its own backing file", []Source{{openFile(t, img), FormatQCOW2}}},
		{"or without its format", []Source{{Format: FormatRaw}}},
	} {
		if _, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{Backing: c.backing}); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v; want %q", err, c.text)
		}
	}
}

// TestChainLimit: MaxChain files can be read, one more is refused, a loop of two is found,
// and a refused chain leaves no file open.
func TestChainLimit(t *testing.T) {
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	want := guestBytes(8, 1<<20)
	writeFile(t, filepath.Join(dir, "0"), want)
	for i := 1; i <= MaxChain; i++ {
		format := "qcow2"
		if i == 1 {
			format = "raw"
		}
		overlay(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i-1), format)
	}
	m := open(t, filepath.Join(dir, fmt.Sprint(MaxChain-1)))
	sameBytes(t, "a full chain", readAll(t, m, 64<<10), want)
	checkExtents(t, m, want, 1<<20)

	before := descriptors(t)
	f := openFile(t, filepath.Join(dir, fmt.Sprint(MaxChain)))
	_, err := Open(Source{f, FormatQCOW2}, Options{Dir: openRoot(t, dir)})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "more than 64 files") {
		t.Fatal(err)
	}
	if n := descriptors(t); n != before+2 { // the top image and the folder
		t.Fatalf("%d descriptors, %d before", n, before)
	}

	overlay(t, filepath.Join(dir, "1"), "2", "qcow2")
	_, err = Open(Source{openFile(t, filepath.Join(dir, "2")), FormatQCOW2}, Options{Dir: openRoot(t, dir)})
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "its own backing file") {
		t.Fatal(err)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
