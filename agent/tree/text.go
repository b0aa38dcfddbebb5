package tree

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"vmfr/agent/fsys"
)

// The two files at the tree's root tell how things are, which changes while a fallback's
// system boots. Looking one up gives a node whose bytes never change; when there is something
// else to tell, the next lookup gives another node. So every cache of a front end stays right.
const (
	metadataName = "METADATA.json"
	readmeName   = "README.txt"
)

const (
	// liveBase is the first inode number of these files in the static file system:
	// liveBase + 2*version, and one more for README.txt.
	liveBase fsys.Ino = 1 << 41
	// keptVersions is how many versions of each stay readable for who has them open.
	keptVersions = 8
)

type texts struct {
	mu    sync.Mutex
	files [2]liveText
}

// liveText is the versions of one file, the newest last.
type liveText struct {
	state    string // what the newest was made of
	content  string
	made     int // how many versions there have been
	versions []*staticNode
}

func (x *texts) has(name string) bool { return name == metadataName || name == readmeName }

// node returns the current version of a file.
func (x *texts) node(tab *table, name string) *staticNode {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := 0
	if name == readmeName {
		i = 1
	}
	f := &x.files[i]
	state := tab.t.state(tab)
	if f.made > 0 && f.state == state {
		return f.versions[len(f.versions)-1]
	}
	reports := tab.t.reports(tab)
	content := ""
	if name == readmeName {
		content = readme(reports)
	} else {
		content = metadata(tab.t.cfg.Version, reports)
	}
	f.state = state
	if f.made > 0 && f.content == content {
		return f.versions[len(f.versions)-1]
	}
	mtime := tab.static.root().mtime
	if f.made > 0 {
		mtime = tab.t.now() // so that a copy of the version before is seen to be old
	}
	n := textNode(content, mtime)
	n.ino = liveBase + fsys.Ino(2*f.made+i)
	f.content = content
	f.made++
	f.versions = append(f.versions, n)
	if len(f.versions) > keptVersions {
		f.versions = append([]*staticNode(nil), f.versions[1:]...)
	}
	return n
}

// version returns the version of a file that n is, or nil.
func (x *texts) version(n Node) *staticNode {
	if n.fs != 0 || n.ino < liveBase {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, v := range x.files[(n.ino-liveBase)&1].versions {
		if v.ino == n.ino {
			return v
		}
	}
	return nil
}

// state is a short text that differs where the two files may.
func (t *Tree) state(tab *table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", tab.changes)
	for _, k := range t.backups {
		if r := k.boot.report(); r != nil {
			fmt.Fprintf(&b, "\x00%s %s %d %s", r.State, r.Stage, r.Progress, r.Error)
		}
	}
	return b.String()
}

// reports are the table's, with how the boots stand.
func (t *Tree) reports(tab *table) []BackupReport {
	out := append([]BackupReport(nil), tab.report...)
	for i, b := range t.backups {
		out[i].Fallback = b.boot.report()
	}
	return out
}

func metadata(version string, reports []BackupReport) string {
	b, err := json.MarshalIndent(map[string]any{"version": 1, "program": "vmfr " + version, "backups": reports}, "", "  ")
	if err != nil { // no type of a report can fail
		return fmt.Sprintf("{\"error\": %q}\n", err)
	}
	return string(b) + "\n"
}

func errorText(path, why, advice string) string {
	return fmt.Sprintf("%s cannot be shown.\n\nWhat was found:\n  %s\n\nWhat to do:\n  %s\n", path, why, advice)
}

func readme(backups []BackupReport) string {
	var b strings.Builder
	b.WriteString("Files of virtual machine backups, read-only.\n\n" +
		"  /backups/<backup>/<disk>/     the files of a disk as they were at the time of the backup;\n" +
		"                                where a system is installed, with what it mounts\n" +
		"  /backups/<backup>/<disk>@..   further file systems of that disk\n" +
		"  /disks/<backup>/<disk>.raw    the whole disk, byte by byte, for forensic tools\n" +
		"  /restores/<date>/...          the same backups by date and VM\n" +
		"  /METADATA.json                how every disk was read, with all errors and warnings\n\nHere:\n\n")
	for _, r := range backups {
		for _, s := range r.OperatingSystems {
			fmt.Fprintf(&b, "  %s  %s\n", s.Path, s.Title())
		}
		for _, m := range r.Mounts {
			if m.Note != "" {
				fmt.Fprintf(&b, "      %s (%s): %s: %s\n", oneLine(m.MountPoint), oneLine(m.Source), m.State, oneLine(m.Note))
			}
		}
		for _, g := range r.VolumeGroups {
			for _, m := range g.Missing {
				fmt.Fprintf(&b, "  volume group %s: physical volume %s is missing\n", g.Name, m)
			}
			for _, w := range g.Warnings {
				fmt.Fprintf(&b, "  volume group %s: warning: %s\n", g.Name, w)
			}
		}
		if f := r.Fallback; f != nil {
			fmt.Fprintf(&b, "  /backups/%s  %s\n", r.Name, f.Sentence())
		}
		for _, d := range r.Disks {
			readmeDisk(&b, d)
		}
	}
	return b.String()
}

func readmeDisk(b *strings.Builder, d DiskReport) {
	fmt.Fprintf(b, "  %s  %s, %d MiB\n", d.Path, d.State, d.VirtualSize>>20)
	if d.Error != "" {
		fmt.Fprintf(b, "      error: %s\n", d.Error)
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(b, "      warning: %s\n", w)
	}
	for _, v := range d.Volumes {
		if v.FileSystem == nil {
			continue
		}
		fmt.Fprintf(b, "      %s: %s, read by %s", oneLine(v.Path), v.FileSystem.Type, v.FileSystem.Engine)
		if v.FileSystem.Journal != "" {
			fmt.Fprintf(b, ", journal %s", v.FileSystem.Journal)
		}
		for _, p := range v.MountedAt {
			fmt.Fprintf(b, ", also at %s", oneLine(p))
		}
		b.WriteByte('\n')
		for _, w := range v.FileSystem.Warnings {
			fmt.Fprintf(b, "      warning: %s\n", w)
		}
	}
}

// diskText is the README.txt of a disk whose own folder shows no file system.
func diskText(d DiskReport, why string) string {
	var b strings.Builder
	b.WriteString(why + "\n")
	for _, v := range d.Volumes {
		for _, p := range append(v.Roots(), v.MountedAt...) {
			fmt.Fprintf(&b, "  %s  (%s)\n", oneLine(p), v.Content)
		}
	}
	return b.String()
}

// oneLine keeps a guest's text from making lines of its own.
func oneLine(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// folderTime is the time that a backup's own folders have.
func (b *backup) folderTime(fallback time.Time) time.Time {
	if !b.Timestamp.IsZero() {
		return b.Timestamp
	}
	for _, d := range b.disks {
		if !d.mtime.IsZero() {
			return d.mtime
		}
	}
	return fallback
}
