package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// fake is an engine that answers with what it was given and counts being asked.
type fake struct {
	name  string
	fs    fsys.FS
	err   error
	panic any
	asked int
}

func (f *fake) Name() string { return f.name }

func (f *fake) Open(volume.Volume) (fsys.FS, error) {
	f.asked++
	if f.panic != nil {
		panic(f.panic)
	}
	return f.fs, f.err
}

// nothing is a file system that is only told apart.
type nothing struct{ fsys.FS }

var errMedium = errors.New("medium error")

func TestNextEngineOnlyWhereUnsupported(t *testing.T) {
	corrupt := fsys.Corrupt("a", "superblock", 0, 1024, "checksum")
	feature := fmt.Errorf("%w: feature 0x40", fsys.ErrUnsupported)
	for _, c := range []struct {
		name    string
		first   fake
		next    bool  // the second engine, which succeeds, is asked
		is      error // where it is not
		message string
	}{
		{"opened", fake{fs: nothing{}}, false, nil, ""},
		{"another format", fake{err: fsys.ErrNotRecognized}, true, nil, ""},
		{"unsupported", fake{err: feature}, true, nil, ""},
		{"corrupt", fake{err: corrupt}, false, fsys.ErrCorrupt, "first: a: superblock at byte 1024 is corrupt: checksum"},
		{"corrupt, with the engine's name", fake{err: fsys.Corrupt("first", "superblock", 0, -1, "checksum")}, false,
			fsys.ErrCorrupt, "first: superblock is corrupt"},
		{"corrupt and unsupported", fake{err: errors.Join(feature, corrupt)}, false, fsys.ErrCorrupt, "checksum"},
		{"I/O", fake{err: errMedium}, false, errMedium, "first: medium error"},
		{"panic", fake{panic: "index out of range"}, false, nil, "the first engine stopped"},
		{"panic with an unsupported error", fake{panic: feature}, false, nil, "the first engine stopped"},
		{"neither", fake{}, false, nil, "neither a file system nor an error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := c.first, fake{name: "second", fs: nothing{}}
			first.name = "first"
			o, err := Open(volume.Volume{Reader: extent.Zeros(4096)}, []Engine{&first, &second})
			if (second.asked > 0) != c.next {
				t.Errorf("the second engine was asked %d times", second.asked)
			}
			switch {
			case c.message == "":
				want := "first"
				if c.next {
					want = "second"
				}
				if err != nil || o.Engine != want || o.FS == nil {
					t.Errorf("opened by %q: %v", o.Engine, err)
				}
			case err == nil || o.FS != nil || strings.HasPrefix(err.Error(), "first: first") || !strings.Contains(err.Error(), c.message):
				t.Errorf("error %v, want %q", err, c.message)
			case c.is != nil && !errors.Is(err, c.is):
				t.Errorf("error %v does not wrap %v", err, c.is)
			case errors.Is(err, fsys.ErrUnsupported) && c.is == nil:
				t.Errorf("error %v lets another engine try", err)
			}
			if p, ok := IsPanic(err); ok != (c.first.panic != nil) || ok && (p.Engine != "first" || len(p.Stack) == 0) {
				t.Errorf("panic: %+v", p)
			}
		})
	}
}

func TestAllRefuse(t *testing.T) {
	feature := fmt.Errorf("%w: feature 0x40", fsys.ErrUnsupported)
	xfs := make([]byte, 64<<10)
	copy(xfs, "XFSB")
	copy(xfs[108:], "da\"ta")
	swap := make([]byte, 64<<10)
	copy(swap[4086:], "SWAPSPACE2")
	luks := append([]byte("LUKS\xba\xbe\x00\x01"), make([]byte, 4096)...)
	text := []byte(strings.Repeat("no signature ", 1000))
	none := []Engine{&fake{name: "a", err: fsys.ErrNotRecognized}, &fake{name: "b", err: fsys.ErrNotRecognized}}
	for _, c := range []struct {
		name    string
		r       extent.Reader
		engines []Engine
		want    string
		kind    Kind
		foreign bool // nobody recognized it
	}{
		{"xfs", extent.Bytes(xfs), none, `this volume is xfs (label "da\"ta"), which this build does not read yet; `, KindFilesystem, true},
		{"xfs, no engines", extent.Bytes(xfs), nil, "this volume is xfs", KindFilesystem, true},
		{"a reason wins", extent.Bytes(xfs), append([]Engine{&fake{name: "xfs", err: feature}}, none...),
			"cannot read: xfs: not supported: feature 0x40", KindFilesystem, false},
		{"a reason without a signature", extent.Bytes(text), []Engine{&fake{name: "xfs", err: feature}},
			"this volume holds a format, which this build recognizes but cannot read: xfs: not supported", KindUnknown, false},
		{"swap", extent.Bytes(swap), none, "this volume is swap space: it holds no files", KindSwap, true},
		{"luks", extent.Bytes(luks), none, "this volume is a container of type crypto_LUKS, which this build does not open yet", KindContainer, true},
		{"empty", extent.Zeros(1 << 20), none, "this volume is empty", KindEmpty, true},
		{"unknown", extent.Bytes(text), none, "this volume holds nothing that this build recognizes", KindUnknown, true},
		{"unreadable", failing{extent.Zeros(1 << 20)}, none, "this volume cannot be read: medium error", KindUnknown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(volume.Volume{Reader: c.r}, c.engines)
			var u *UnsupportedError
			if !errors.As(err, &u) || !errors.Is(err, fsys.ErrUnsupported) {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), c.want) || u.Signature.Kind != c.kind {
				t.Errorf("error %q of kind %v, want %q", err, u.Signature.Kind, c.want)
			}
			if errors.Is(err, fsys.ErrNotRecognized) != c.foreign {
				t.Errorf("ErrNotRecognized: %v", !c.foreign)
			}
			if errors.Is(err, errMedium) != (c.name == "unreadable") {
				t.Error("the I/O error is lost")
			}
		})
	}
}

type failing struct{ extent.Reader }

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errMedium }

// TestNative opens the partitions of a real disk: ext4, swap, xfs and btrfs.
func TestNative(t *testing.T) {
	fixture.Need(t, "sfdisk", "mkswap", "mkfs.xfs", "mkfs.btrfs", "mke2fs")
	img := filepath.Join(t.TempDir(), "disk.raw")
	fixture.Sparse(t, img, 600<<20)
	fixture.Run(t, "sh", "-c", `printf 'label: gpt\nstart=2048,size=32768\nstart=34816,size=8192\nstart=43008,size=720896\nstart=763904,size=262144\n' | sfdisk -q "$0"`, img)
	fixture.Ext4At(t, img, 1<<20, 16<<20, "", "-L", "root")
	dir := t.TempDir()
	for _, part := range []struct {
		tool []string
		at   int64
		size int64
	}{{[]string{"mkswap", "-q"}, 34816, 8192}, {[]string{"mkfs.xfs", "-q", "-L", "data"}, 43008, 720896}, {[]string{"mkfs.btrfs", "-q"}, 763904, 262144}} {
		p := filepath.Join(dir, part.tool[0])
		fixture.Sparse(t, p, part.size*512)
		fixture.Run(t, part.tool[0], append(part.tool[1:], p)...)
		fixture.Run(t, "dd", "if="+p, "of="+img, "bs=1M", "conv=notrunc,sparse", "oflag=seek_bytes", fmt.Sprintf("seek=%d", part.at*512))
	}
	res := volume.Scan([]volume.Disk{{Name: "disk", Reader: fixture.OpenRaw(t, img)}})
	if len(res.Volumes) != 4 || res.Tables[0].Err != nil {
		t.Fatalf("%+v", res)
	}
	for i, want := range map[int]struct{ engine, label string }{0: {"ext4", "root"}, 2: {"xfs", "data"}} {
		o, err := Open(res.Volumes[i], Native())
		if err != nil {
			t.Fatal(err)
		}
		if o.Engine != want.engine || o.Info().Label != want.label {
			t.Errorf("%s %+v", o.Engine, o.Info())
		}
		if _, ok := o.FS.(fsys.Xattrer); !ok {
			t.Error("the file system's optional features are hidden")
		}
		if a, err := o.Stat(o.Root()); err != nil || !a.IsDir() {
			t.Errorf("%s: root %+v, %v", want.engine, a, err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
	for i, want := range map[int]string{1: "swap space", 3: "is btrfs"} {
		if _, err := Open(res.Volumes[i], Native()); !errors.Is(err, fsys.ErrNotRecognized) || !strings.Contains(err.Error(), want) {
			t.Errorf("volume %d: %v", i, err)
		}
	}
}

// TestNativeOnRubbish: what no engine knows and what ends early is refused, not opened.
func TestNativeOnRubbish(t *testing.T) {
	for _, n := range []int64{0, 1, 511, 1024, 1025, 2047, 4096, 1 << 20} {
		if _, err := Open(volume.Volume{Reader: extent.Zeros(n)}, Native()); !errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("%d zeros: %v", n, err)
		}
	}
	if _, err := Open(volume.Volume{Reader: failing{extent.Zeros(1 << 20)}}, Native()); !errors.Is(err, errMedium) {
		t.Errorf("unreadable: %v", err)
	}
}
