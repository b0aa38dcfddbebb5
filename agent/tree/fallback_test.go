package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/volume"
)

// appliances is a Fallback whose backups answer as a test says.
type appliances struct {
	boots  atomic.Int32
	closed atomic.Int32
	answer func(ctx context.Context, backup string, disks []volume.Disk) ([]engine.Found, error)
}

func (a *appliances) Name() string { return "libtest" }

func (a *appliances) Backup(name string, disks []volume.Disk) engine.Appliance {
	return &fakeAppliance{a: a, name: name, disks: disks}
}

type fakeAppliance struct {
	a     *appliances
	name  string
	disks []volume.Disk
}

func (f *fakeAppliance) Filesystems(ctx context.Context) ([]engine.Found, error) {
	f.a.boots.Add(1)
	return f.a.answer(ctx, f.name, f.disks)
}
func (f *fakeAppliance) Status() engine.ApplianceStatus { return engine.ApplianceStatus{Progress: 42} }
func (f *fakeAppliance) Close() error                   { f.a.closed.Add(1); return nil }

// leave is an engine that recognizes "btrfs" and "luks" and reads neither.
func leave(s stub) stub {
	s["btrfs"] = func() (fsys.FS, error) { return nil, fmt.Errorf("test: btrfs: %w", fsys.ErrUnsupported) }
	return s
}

func fallbackTree(t *testing.T, a *appliances, engines stub, backups ...Backup) *Tree {
	t.Helper()
	tr, err := New(t.Context(), Config{Backups: backups, Engines: []engine.Engine{leave(engines)}, Version: "test", Fallback: a})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// mustRoot gives a file system root inode numbers that are not the first.
func btrfs(files map[string]string) fsys.FS { return labelled{guestFS(files), "tank", 255} }

// TestFallback boots slowly for many callers at once, and leaves everything else alone.
func TestFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &appliances{answer: func(ctx context.Context, _ string, _ []volume.Disk) ([]engine.Found, error) {
			time.Sleep(time.Minute)
			return []engine.Found{
				{Disk: "pool", FS: btrfs(map[string]string{"top": "t"}), UUID: "tttt", Type: "btrfs", SubvolID: 5, Default: true},
			}, nil
		}}
		root := debian("UUID=aaaa / ext4\nUUID=tttt /home btrfs\nUUID=none /srv/data ext4\n")
		root["srv/data/kept"] = "kept"
		tr := fallbackTree(t, a, stub{"root": fsOf("rootfs", "aaaa", root)},
			Backup{Name: "b", Disks: []Disk{disk("sys", "root"), disk("pool", "btrfs")}},
			Backup{Name: "other", Disks: []Disk{disk("pool", "btrfs")}})
		defer tr.Close()
		if !tr.Dynamic() {
			t.Error("the tree is not dynamic")
		}
		// Nothing of this boots.
		for _, p := range []string{"/backups/b", "/backups/other", "/backups/b/sys", "/backups/b/sys/etc"} {
			if _, err := names(tr, p); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
		before := map[string]uint64{}
		for _, p := range []string{"/backups/b/pool", "/backups/b/sys", "/backups/b/sys/home", "/backups/b/sys/srv/data", "/backups/b/sys/etc/fstab"} {
			n, err := tr.Resolve(p, true)
			if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			before[p] = tr.ID(n)
			if want := !strings.HasPrefix(p, "/backups/b/sys/etc") && p != "/backups/b/sys"; tr.Volatile(n) != want {
				t.Errorf("%s: volatile %v", p, !want)
			}
		}
		meta := read(t, tr, "/METADATA.json")
		if !strings.Contains(meta, `"state": "notStarted"`) || !strings.Contains(meta, `"state": "pending"`) || a.boots.Load() != 0 {
			t.Errorf("%d boots, %s", a.boots.Load(), meta)
		}
		old, _ := tr.Resolve("/METADATA.json", true)

		start := time.Now()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				p := []string{"/backups/b/pool/top", "/backups/b/sys/home/top"}[i%2]
				if _, err := tr.Resolve(p, true); err != nil {
					t.Errorf("%s: %v", p, err)
				}
			})
		}
		wg.Go(func() {
			if got, err := names(tr, "/backups/b/sys/srv/data"); err != nil || got != "kept" {
				t.Errorf("an entry that is not found shows %q, %v; want the folder of the guest", got, err)
			}
		})
		synctest.Wait()
		if s := read(t, tr, "/README.txt"); !strings.Contains(s, "libtest is starting, 42 % done") {
			t.Errorf("while it boots: %s", s)
		}
		if _, err := names(tr, "/backups/b"); err != nil || time.Since(start) > 0 {
			t.Errorf("listing the backup waits or fails: %v", err)
		}
		wg.Wait()
		if a.boots.Load() != 1 || time.Since(start) != time.Minute {
			t.Errorf("%d boots, %v", a.boots.Load(), time.Since(start))
		}
		for p, id := range before {
			n, err := tr.Resolve(p, true)
			if err != nil || tr.ID(n) != id || tr.Volatile(n) {
				t.Errorf("%s: ID %#x (%v), volatile %v; before the boot %#x", p, tr.ID(n), err, tr.Volatile(n), id)
			}
		}
		list(t, tr) // boots the other backup, too
		oneVisit(t, tr)
		if tr.Dynamic() || a.boots.Load() != 2 {
			t.Errorf("after all boots: dynamic %v, %d boots", tr.Dynamic(), a.boots.Load())
		}
		if got := mountsOf(tr.Backups()[0]); got != "/ mounted /backups/b/sys |/home mounted /backups/b/sys/home |/srv/data notFound  no file system of this backup has this UUID|" {
			t.Error(got)
		}
		if s := read(t, tr, "/METADATA.json"); strings.Contains(s, "pending") || !strings.Contains(s, `"state": "ready"`) {
			t.Error(s)
		}
		f, err := tr.Open(old)
		if err != nil {
			t.Fatalf("the text as it was: %v", err)
		}
		if b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil || string(b) != meta {
			t.Errorf("the text as it was: %v, changed %v", err, string(b) != meta)
		}
	})
}

// names lists a folder as one string.
func names(tr *Tree, path string) (string, error) {
	n, err := tr.Resolve(path, true)
	if err != nil {
		return "", err
	}
	var all []string
	buf := make([]fsys.Dirent, 8)
	for from := fsys.Cookie(0); ; {
		k, err := tr.ReadDir(n, from, buf)
		for _, e := range buf[:k] {
			all, from = append(all, e.Name), e.Next
		}
		if err == io.EOF {
			return strings.Join(all, " "), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// TestFallbackFails: a failed boot is explained in the folder, not tried at once, and tried
// again later.
func TestFallbackFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		works := false
		a := &appliances{}
		a.answer = func(ctx context.Context, _ string, _ []volume.Disk) ([]engine.Found, error) {
			switch a.boots.Load() {
			case 2:
				panic("defect")
			case 3:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			if !works {
				return nil, errors.New("no KVM and no memory; add memory")
			}
			return []engine.Found{{Disk: "d", FS: btrfs(map[string]string{"f": "x"})}}, nil
		}
		tr := fallbackTree(t, a, stub{}, Backup{Name: "b", Disks: []Disk{disk("d", "btrfs")}})
		defer tr.Close()
		for i, want := range []string{"no KVM and no memory", "defect", "did not answer in time"} {
			if got, err := names(tr, "/backups/b/d"); got != "ERROR.txt" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			first, _ := tr.Resolve("/backups/b/d/ERROR.txt", true)
			if s := read(t, tr, "/backups/b/d/ERROR.txt"); !strings.Contains(s, want) || !strings.Contains(s, "What to do") || int(a.boots.Load()) != i+1 {
				t.Errorf("after %d boots: %s", a.boots.Load(), s)
			}
			if r := tr.Backups()[0]; r.Fallback.State != FallbackFailed || !strings.Contains(r.Fallback.Error, want) || r.Disks[0].State != StatePending {
				t.Errorf("%+v", r.Fallback)
			}
			time.Sleep(defaultRetryAfter)
			if i == 2 {
				works = true
			}
			n, _ := tr.Resolve("/backups/b/d", true)
			if _, err := tr.Lookup(n, "x"); err == nil {
				t.Error("x is there")
			}
			if again, err := tr.Resolve("/backups/b/d/ERROR.txt", true); err == nil && again == first {
				t.Error("another text has the same node")
			}
			if i < 2 {
				time.Sleep(defaultRetryAfter)
				a.boots.Store(int32(i + 1)) // the lookup booted once more
			}
		}
		if s := read(t, tr, "/backups/b/d/f"); s != "x" || tr.Dynamic() {
			t.Errorf("after a boot that worked: %q, dynamic %v", s, tr.Dynamic())
		}
	})
}

// TestFallbackGivenUp: who waits can leave, and closing ends the boot.
func TestFallbackGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		a := &appliances{answer: func(ctx context.Context, _ string, _ []volume.Disk) ([]engine.Found, error) {
			<-ctx.Done()
			ended = true
			return nil, ctx.Err()
		}}
		tr := fallbackTree(t, a, stub{}, Backup{Name: "b", Disks: []Disk{disk("d", "btrfs")}})
		n, _ := tr.Resolve("/backups/b/d", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tr.Await(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Await: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			tr.end() // as the end of New's context
		}()
		if _, err := tr.Lookup(n, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("Lookup: %v", err)
		}
		if err := tr.Close(); err != nil || !ended || a.closed.Load() != 1 {
			t.Errorf("Close: %v, ended %v, closed %d", err, ended, a.closed.Load())
		}
	})
}

// settled boots everything and returns the report of the first backup.
func settled(t *testing.T, tr *Tree) BackupReport {
	t.Helper()
	if err := tr.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	list(t, tr)
	oneVisit(t, tr)
	return tr.Backups()[0]
}

// found makes a Fallback that answers at once.
func found(list ...engine.Found) *appliances {
	return &appliances{answer: func(context.Context, string, []volume.Disk) ([]engine.Found, error) { return list, nil }}
}

// TestSubvolumes composes a btrfs as Fedora installs it, with a snapshot and a stray folder.
func TestSubvolumes(t *testing.T) {
	root := debian("UUID=ffff / btrfs subvol=root,compress=zstd:1\nUUID=ffff /home btrfs subvolid=257\nUUID=ffff /srv/data btrfs subvol=/none\n")
	for name, stray := range map[string]bool{"only subvolumes": false, "a stray folder": true} {
		top := map[string]string{"root": "/", "home": "/", "snap": "/"}
		if stray {
			top["stray/file"] = "x"
		}
		of := func(sub string, id uint64, files map[string]string) engine.Found {
			return engine.Found{Disk: "d", UUID: "ffff", FS: btrfs(files), Subvolume: sub, SubvolID: id, Default: sub == ""}
		}
		tr := fallbackTree(t, found(of("", 5, top), of("snap", 300, root), of("root", 256, root), of("home", 257, map[string]string{"ann": "a"}),
			of("home/nested", 258, map[string]string{"n": "n"}), of("other", 259, map[string]string{"o": "o"})), stub{}, Backup{Name: "b", Disks: []Disk{disk("d", "btrfs")}})
		r := settled(t, tr)
		want := "/ mounted /backups/b/d |/home mounted /backups/b/d/home |/srv/data notFound  there is no such subvolume|"
		if got := mountsOf(r); got != want || len(r.OperatingSystems) != 1 {
			t.Errorf("%s: %s\nwant %s; %+v", name, got, want, r.OperatingSystems)
		}
		got, err := names(tr, "/backups/b")
		want = "d d@whole-other d@whole-snap"
		if stray {
			want = "d d@tank"
		}
		if got != want || err != nil {
			t.Errorf("%s: folders %s, %v; want %s", name, got, err, want)
		}
		if read(t, tr, "/backups/b/d/home/ann") != "a" {
			t.Error(name)
		}
		_ = tr.Close()
	}
}

// TestContainers: what is found inside LUKS, in arrays and in thin volumes has a place, and
// what is not found has a reason.
func TestContainers(t *testing.T) {
	lv := func(name string) engine.Found {
		return engine.Found{Device: "/dev/vg/" + name, VG: "vg", LV: name, FS: btrfs(map[string]string{name: name}), Label: name}
	}
	// A key that does not fit, and one that fits.
	tr := fallbackTree(t, found(
		engine.Found{Disk: "locked", Err: fmt.Errorf("LUKS: %w", fsys.ErrNoKey)},
		engine.Found{Device: "/dev/mapper/luks-1", Disk: "open", Encrypted: true, FS: btrfs(debian("LABEL=home /home x\nLABEL=nix /srv/data x")), Type: "ext4"},
		lv("home"), engine.Found{Device: "/dev/md127", FS: btrfs(map[string]string{"array": "y"})},
		engine.Found{Disk: "native", FS: btrfs(nil)}, engine.Found{Disk: "", Device: "/dev/md5", Err: errors.New("no such type")},
	), stub{"native": fsOf("nix", "", map[string]string{"n": "n"})},
		Backup{Name: "b", Disks: []Disk{disk("open", "btrfs"), disk("locked", "btrfs"), disk("native", "native"), disk("nothing", "btrfs")}})
	defer tr.Close()
	r := settled(t, tr)
	if got, want := mountsOf(r), "/home mounted /backups/b/open/home |/srv/data mounted /backups/b/open/srv/data |"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	got, err := names(tr, "/backups/b")
	if want := "locked locked@md5 locked@tank native nothing open"; got != want || err != nil {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	for p, want := range map[string]string{
		"locked/ERROR.txt": "--key-file", "nothing/ERROR.txt": "libtest found no file system in it", "open/home/home": "home",
		"open/srv/data/n": "n", "locked@tank/array": "y", "locked@md5/ERROR.txt": "no such type",
	} {
		if s := read(t, tr, "/backups/b/"+p); !strings.Contains(s, want) {
			t.Errorf("%s: %s", p, s)
		}
	}
}

// TestNoFallback says what would read it.
func TestNoFallback(t *testing.T) {
	tr := newTree(t, leave(stub{}), Backup{Name: "b", Disks: []Disk{disk("d", "btrfs")}})
	if s := read(t, tr, "/backups/b/d/ERROR.txt"); !strings.Contains(s, "libguestfs reads this") || tr.Dynamic() {
		t.Error(s)
	}
}

// TestKeptFolders: what could be read before a boot stays where it was; the system that the
// boot brings shows it once more.
func TestKeptFolders(t *testing.T) {
	// Two partitions need a table: one disk of two volumes.
	img := twoPartitions(t, "boot", "btrfs")
	a := found(engine.Found{Disk: "d", Partition: 2, Encrypted: true, FS: btrfs(debian("LABEL=boot /boot x\n"))})
	tr := fallbackTree(t, a, stub{"boot": fsOf("boot", "", map[string]string{"kernel": "k"})}, Backup{Name: "b", Disks: []Disk{{Name: "d", Reader: img}}})
	defer tr.Close()
	if got, err := names(tr, "/backups/b"); got != "d d@boot" || err != nil || a.boots.Load() != 0 {
		t.Errorf("%q, %v, %d boots", got, err, a.boots.Load())
	}
	before, _ := tr.Resolve("/backups/b/d@boot/kernel", true)
	own, _ := tr.Resolve("/backups/b/d", true)
	if s := read(t, tr, "/backups/b/d/boot/kernel"); s != "k" || a.boots.Load() != 1 {
		t.Errorf("%q after %d boots", s, a.boots.Load())
	}
	settled(t, tr)
	after, _ := tr.Resolve("/backups/b/d@boot/kernel", true)
	again, _ := tr.Resolve("/backups/b/d", true)
	if before != after || own != again {
		t.Errorf("nodes were %v and %v, are %v and %v", before, own, after, again)
	}
}

// sluggish takes its time to look a name up.
type sluggish struct{ labelled }

func (s sluggish) Lookup(d fsys.Ino, n string) (fsys.Ino, error) {
	time.Sleep(time.Second)
	return s.labelled.Lookup(d, n)
}

// TestLateCaller: who comes after the boot and before its table sees the new one, too, and
// nothing is said to be final before it is.
func TestLateCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := found(engine.Found{Disk: "d", FS: sluggish{labelled{guestFS(map[string]string{"f": "x"}), "", 255}}})
		tr := fallbackTree(t, a, stub{}, Backup{Name: "b", Disks: []Disk{disk("d", "btrfs")}})
		defer tr.Close()
		n, _ := tr.Resolve("/backups/b/d", true)
		folder, _ := tr.Resolve("/backups/b", true)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 500 * time.Millisecond)
				if _, err := tr.Lookup(n, "f"); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		time.Sleep(1500 * time.Millisecond) // the boot is over, its file system is looked at
		if !tr.Dynamic() || !tr.Volatile(n) || !tr.Volatile(folder) {
			t.Error("final before the table is there")
		}
		wg.Wait()
		if tr.Dynamic() || tr.Volatile(n) || tr.Volatile(folder) || a.boots.Load() != 1 {
			t.Errorf("not final afterwards; %d boots", a.boots.Load())
		}
	})
}

// TestKeptSubvolumes: a partition beside a system, whose folder was there before the boot,
// turns out to be a btrfs of several subvolumes, one of them with a system.
func TestKeptSubvolumes(t *testing.T) {
	of := func(sub string, id uint64, files map[string]string) engine.Found {
		return engine.Found{Disk: "d", Partition: 2, FS: btrfs(files), Subvolume: sub, SubvolID: id, Default: sub == ""}
	}
	tr := fallbackTree(t, found(of("", 5, map[string]string{"a": "/", "b": "/", "stray": "s"}), of("a", 6, debian("")), of("b", 7, map[string]string{"f": "b"})),
		stub{"root": fsOf("", "", debian("LABEL=x /home x"))}, Backup{Name: "b", Disks: []Disk{{Name: "d", Reader: twoPartitions(t, "root", "btrfs")}}})
	defer tr.Close()
	if got, err := names(tr, "/backups/b"); got != "d d@p2" || err != nil {
		t.Errorf("before: %q, %v", got, err)
	}
	r := settled(t, tr)
	if got, err := names(tr, "/backups/b"); got != "d d@p2 d@tank" || err != nil {
		t.Errorf("after: %q, %v", got, err)
	}
	if read(t, tr, "/backups/b/d@p2/etc/hosts") != "h" || read(t, tr, "/backups/b/d@tank/stray") != "s" || len(r.OperatingSystems) != 2 {
		t.Errorf("%+v", r)
	}
}

// TestSameAfterBoots: numbers and texts do not depend on which backup boots first.
func TestSameAfterBoots(t *testing.T) {
	sys := btrfs(debian("LABEL=md /home x\n")) // once: its numbers are as a map gives them
	boots := func(first, second string) (map[string]uint64, string) {
		a := found(engine.Found{Disk: "d", FS: sys}, engine.Found{Device: "/dev/md0", Label: "md", FS: btrfs(map[string]string{"f": "x"})})
		tr := fallbackTree(t, a, stub{}, Backup{Name: "b1", Disks: []Disk{disk("d", "btrfs")}}, Backup{Name: "b2", Disks: []Disk{disk("d", "btrfs")}})
		defer tr.Close()
		for _, b := range []string{first, second} {
			if got := read(t, tr, "/backups/"+b+"/d/home/f"); got != "x" {
				t.Error(got)
			}
		}
		ids := map[string]uint64{}
		for _, p := range list(t, tr) {
			if n, err := tr.Resolve(p, false); err == nil && !tr.texts.has(p[1:]) {
				ids[p] = tr.ID(n)
			}
		}
		return ids, read(t, tr, "/METADATA.json")
	}
	ids1, text1 := boots("b1", "b2")
	ids2, text2 := boots("b2", "b1")
	if text1 != text2 || fmt.Sprint(ids1) != fmt.Sprint(ids2) {
		t.Errorf("%v\n%v\nsame METADATA.json: %v", ids1, ids2, text1 == text2)
	}
}
