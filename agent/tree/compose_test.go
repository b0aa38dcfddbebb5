package tree

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"vmfr/agent/fsys"
)

// named is a guest file system with a label and a UUID.
type named struct {
	labelled
	uuid string
}

func (n named) Info() fsys.Info {
	i := n.labelled.Info()
	i.UUID = n.uuid
	return i
}

// fsOf makes the engine's answer for a file system.
func fsOf(label, uuid string, files map[string]string) func() (fsys.FS, error) {
	return func() (fsys.FS, error) { return named{labelled{guestFS(files), label, 0}, uuid}, nil }
}

// debian is a root with mount points and an fstab.
func debian(fstab string) map[string]string {
	return map[string]string{
		"usr/lib/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n", "etc/os-release": "-> ../usr/lib/os-release",
		"etc/fstab": fstab, "boot": "/", "home": "/", "srv/data": "/", "mnt/my disk": "/", "file": "x", "link": "-> /srv/data", "up": "-> ../../../srv",
		"hidden/by": "/", "etc/hosts": "h",
	}
}

func mountsOf(r BackupReport) string {
	var b strings.Builder
	for _, m := range r.Mounts {
		fmt.Fprintf(&b, "%s %s %s %s|", m.MountPoint, m.State, m.Path, m.Note)
	}
	return b.String()
}

// TestCompose: a data disk is at its own place and below the root, with nodes of its own.
func TestCompose(t *testing.T) {
	engines := stub{
		"root": fsOf("rootfs", "aaaa", debian("UUID=AAAA / ext4 defaults 0 1\nLABEL=data /srv/data ext4 nofail 0 2\n")),
		"data": fsOf("data", "bbbb", map[string]string{"d/f": "data", "abs": "-> /etc/hosts", "updir": "-> ../../etc/hosts"}),
	}
	tr := newTree(t, engines, Backup{Name: "b", Disks: []Disk{disk("sys", "root"), disk("two", "data")}}, Backup{Name: "a", Disks: []Disk{disk("x", "data")}})
	list(t, tr)
	for path, want := range map[string]string{
		"/backups/b/sys/srv/data/d/f": "data", "/backups/b/two/d/f": "data", "/backups/b/sys/link/d/f": "data",
		"/backups/b/sys/srv/data/abs": "h", "/backups/b/sys/srv/data/updir": "h", "/backups/b/sys/srv/data/../../etc/hosts": "h",
	} {
		if got := read(t, tr, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if _, err := tr.Resolve("/backups/b/two/abs", true); err == nil {
		t.Error("an absolute link of the disk's own folder leads into the root disk")
	}
	one, _ := tr.Resolve("/backups/b/two/d", true)
	two, _ := tr.Resolve("/backups/b/sys/srv/data/d", true)
	if one == two || tr.Alias(one) || !tr.Alias(two) {
		t.Errorf("nodes %v and %v, aliases %v and %v: want two nodes, the second an alias", one, two, tr.Alias(one), tr.Alias(two))
	}
	r := tr.Backups()[1]
	if got, want := mountsOf(r), "/ mounted /backups/b/sys |/srv/data mounted /backups/b/sys/srv/data |"; got != want {
		t.Errorf("mounts %s\nwant   %s", got, want)
	}
	if v := r.Disks[1].Volumes[0]; v.Path != "/backups/b/two" || len(v.MountedAt) != 1 || len(v.Roots()) != 1 {
		t.Errorf("volume %+v", v)
	}
	if len(r.OperatingSystems) != 1 || r.OperatingSystems[0] != (OperatingSystem{"/backups/b/sys", "linux", "debian", "12", "Debian GNU/Linux 12 (bookworm)"}) {
		t.Errorf("systems %+v", r.OperatingSystems)
	}
	if n := tr.Stats().Errors["not_found"]; n != 1 { // the one above
		t.Errorf("composing counted %d errors as a client's", n-1)
	}
}

// TestHostileFstab: whatever an fstab says, every directory has one path and all ends.
func TestHostileFstab(t *testing.T) {
	data := fsOf("data", "bbbb", map[string]string{"d": "data", "sub/x": "/"})
	for name, c := range map[string]struct{ fstab, want string }{
		"twice":          {"LABEL=data /srv/data x\nLABEL=data /home x", "/home mounted /backups/b/sys/home |/srv/data ignored  mounted already at /home|"},
		"root in itself": {"LABEL=rootfs /home x", "/home ignored  mounted already at /|"},
		"data in itself": {"LABEL=data /srv/data x\nLABEL=data /srv/data/sub x", "/srv/data mounted /backups/b/sys/srv/data |/srv/data/sub ignored  mounted already at /srv/data|"},
		"over etc":       {"LABEL=data /etc x", "/etc mounted /backups/b/sys/etc |"},
		"on the root":    {"LABEL=data /. x\nLABEL=data //.. x", "/ mounted /backups/b/sys the entry names another file system than the one that it is on|/ mounted /backups/b/sys the entry names another file system than the one that it is on|"},
		"same place":     {"LABEL=data /home x\nLABEL=more /home x", "/home mounted /backups/b/sys/home |/home notMounted  another file system is mounted there already|"},
		"hidden":         {"LABEL=data /hidden/by x\nLABEL=more /nolink/../hidden x", "/hidden mounted /backups/b/sys/hidden |/hidden/by notMounted  the mount point cannot be used: file does not exist|"},
		"hides":          {"LABEL=data /l2 x\nLABEL=more /hidden x", "/l2 notMounted  a later entry mounts over it|/hidden mounted /backups/b/sys/hidden |"},
		"file":           {"LABEL=data /file x", "/file notMounted  the mount point is not a folder|"},
		"missing":        {"LABEL=data /none x", "/none notMounted  the mount point cannot be used: file does not exist|"},
		"link":           {"LABEL=data /up/data x", "/up/data mounted /backups/b/sys/srv/data |"},
		"space":          {`LABEL=data /mnt/my\040disk x`, "/mnt/my disk mounted /backups/b/sys/mnt/my disk |"},
		"noauto":         {"LABEL=data /home x noauto", "/home noauto  |"},
		"unknown":        {"LABEL=nothing /home x", "/home notFound  no file system of this backup has this LABEL|"},
		"bind":           {"/srv /home none bind", "/home ignored  a bind mount: its files are at /srv|"},
		"quiet":          {"/dev/sdb1 none swap sw\ntmpfs /tmp tmpfs\nproc /proc proc\n#LABEL=data /home x", ""},
		"remote":         {"server:/x /home nfs\n//s/x /home cifs", "/home ignored  on another machine, not in this backup|/home ignored  on another machine, not in this backup|"},
	} {
		files := debian(c.fstab)
		files["l2"] = "-> hidden/by"
		tr := newTree(t, stub{"root": fsOf("rootfs", "aaaa", files), "data": data, "more": fsOf("more", "cccc", map[string]string{"m": "m"})},
			Backup{Name: "b", Disks: []Disk{disk("sys", "root"), disk("two", "data"), disk("three", "more")}})
		if got := mountsOf(tr.Backups()[0]); got != c.want {
			t.Errorf("%s: mounts %s\nwant %s", name, got, c.want)
		}
		list(t, tr)
		oneVisit(t, tr)
	}
	// Very long: bounded, and said so.
	long := strings.Repeat("LABEL=data /home x\n", 100_000)
	tr := newTree(t, stub{"root": fsOf("", "", debian(long)), "data": data}, Backup{Name: "b", Disks: []Disk{disk("sys", "root"), disk("two", "data")}})
	r := tr.Backups()[0]
	if len(r.Mounts) > maxFstabEntries || len(r.Warnings) == 0 {
		t.Errorf("%d mounts, warnings %v", len(r.Mounts), r.Warnings)
	}
}

// oneVisit walks every volume's Roots without crossing mount points: all files must be met,
// each once.
func oneVisit(t *testing.T, tr *Tree) {
	t.Helper()
	met := map[Node]bool{}
	for _, b := range tr.Backups() {
		for _, d := range b.Disks {
			for _, v := range d.Volumes {
				for _, p := range v.Roots() {
					n, err := tr.Resolve(p, false)
					if err != nil || tr.Alias(n) {
						t.Errorf("root %s: %v, alias %v", p, err, tr.Alias(n))
						continue
					}
					for todo := []Node{n}; len(todo) > 0; {
						n := todo[0]
						todo = todo[1:]
						if met[n] {
							t.Errorf("%s: node %v is met twice", p, n)
						}
						met[n] = true
						a, _ := tr.Attr(n)
						if !a.IsDir() {
							continue
						}
						buf := make([]fsys.Dirent, 64)
						for from, err := fsys.Cookie(0), error(nil); err != io.EOF; {
							var k int
							if k, err = tr.ReadDir(n, from, buf); err != nil && err != io.EOF {
								t.Fatal(err)
							}
							for _, e := range buf[:k] {
								from = e.Next
								if c, _ := tr.ByID(uint64(e.Ino)); tr.SameFS(n, c) {
									todo = append(todo, c)
								}
							}
						}
					}
				}
			}
		}
	}
	for i, m := range tr.cur.Load().mounts {
		if m != nil && m.guest && !m.alias && !met[m.top] {
			t.Errorf("file system %d is met by no root", i)
		}
	}
}
