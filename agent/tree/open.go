package tree

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/volume"
)

// Backup is one point in time of a VM.
type Backup struct {
	Name      string // a path element, see validName
	VM        string // empty: unknown
	Timestamp time.Time
	Disks     []Disk
}

// Disk is one disk image of a backup.
type Disk struct {
	Name    string        // a path element, see validName
	Source  string        // for people: the file or PVC that it comes from
	Format  string        // "raw", "qcow2"
	Reader  extent.Reader // nil where Err is set
	Err     error         // why the image could not be opened
	ModTime time.Time     // of the image: the time shown for what the tree adds
	Blocks  int64         // 512-byte units that the image occupies, for the raw file's st_blocks
}

// validName is what Kubernetes allows in names of backups and PVCs (RFC 1123 subdomain, up to
// 253 bytes), and underscores and capitals, which files on a disk have. It leaves out '/', '@'
// and names that begin with a dot, which have a meaning in the tree.
var validName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,252}$`)

// CheckName tells what is wrong with the name of a backup, disk or VM.
func CheckName(what, name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%s name %q: use letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 253", what, name)
	}
	return nil
}

func (c Config) validate() error {
	seen := map[string]bool{}
	for _, b := range c.Backups {
		if err := CheckName("backup", b.Name); err != nil {
			return err
		}
		if seen[b.Name] {
			return fmt.Errorf("backup %q is given twice", b.Name)
		}
		seen[b.Name] = true
		if b.VM != "" {
			if err := CheckName("VM", b.VM); err != nil {
				return err
			}
		}
		for _, d := range b.Disks {
			if err := CheckName("disk", d.Name); err != nil {
				return err
			}
			if seen[b.Name+"/"+d.Name] {
				return fmt.Errorf("disk %q of backup %q is given twice", d.Name, b.Name)
			}
			seen[b.Name+"/"+d.Name] = true
			if (d.Reader == nil) == (d.Err == nil) {
				return fmt.Errorf("disk %q of backup %q needs either a reader or an error", d.Name, b.Name)
			}
		}
	}
	return nil
}

// backup is a Backup with everything that was found on its disks. Only boot and the place
// numbers change after New; both have Tree.mu or their own lock.
type backup struct {
	Backup
	disks   []*openedDisk // sorted by name
	groups  []volume.Group
	boot    *boot // nil: nothing is left to the fallback
	places  places
	found   []*content     // by the fallback; empty before its boot
	refused []engine.Found // what it found and cannot show
	more    int            // that it found beyond maxFound
}

// openedDisk is a disk with its volumes, before it has a place in the tree.
type openedDisk struct {
	disk  Disk
	order int // in Backup.Disks: the order in which the VM has its disks
	mtime time.Time
	table *volume.Table // nil where the image could not be opened
	vols  []*openedVolume
}

// openedVolume is a volume and what the engines say of it.
type openedVolume struct {
	volume.Volume
	content *content         // what a native engine reads; nil: none does
	sig     engine.Signature // where content is nil
	err     error            // likewise
	left    bool             // to the fallback: it may hold files
	took    time.Duration
}

// content is a file system and what composing a backup needs to know of it.
type content struct {
	fs     fsys.FS
	engine string
	label  string
	uuid   string
	system *OperatingSystem  // nil: none is installed here
	fstab  []fstabEntry      // of system
	crypt  map[string]string // of crypttab: what is behind a name in /dev/mapper
	notes  []string          // about fstab

	// Of the fallback's.
	found     engine.Found
	subvolume string // path of a btrfs subvolume; empty: all of it
	subvolID  uint64
	usual     bool // what a mount without options shows
}

// contents are all file systems that were opened.
func (b *backup) contents() []*content {
	var all []*content
	for _, d := range b.disks {
		for _, v := range d.vols {
			if v.content != nil {
				all = append(all, v.content)
			}
		}
	}
	return append(all, b.found...)
}

// openAll finds and opens every file system, a few at a time; the result is sorted by backup
// and disk. Only ctx ends it with an error; then all that was opened is closed.
func openAll(ctx context.Context, cfg Config) ([]*backup, error) {
	out := make([]*backup, len(cfg.Backups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i, b := range cfg.Backups {
		disks := readable(b)
		scan := volume.Scan(disks)
		ob := &backup{Backup: b, groups: scan.Groups}
		out[i] = ob
		for order, d := range b.Disks {
			ob.disks = append(ob.disks, openDisk(b, d, order, scan))
		}
		for _, d := range ob.disks {
			g.Go(func() error {
				for _, v := range d.vols {
					if ctx.Err() == nil {
						v.open(cfg.Engines)
					}
				}
				return ctx.Err()
			})
		}
		sort.Slice(ob.disks, func(a, c int) bool { return ob.disks[a].disk.Name < ob.disks[c].disk.Name })
	}
	if err := g.Wait(); err != nil {
		for _, b := range out {
			for _, c := range b.contents() {
				_ = c.fs.Close()
			}
		}
		return nil, err
	}
	for _, b := range out {
		if cfg.Fallback != nil && b.leaves() {
			b.boot = newBoot(cfg.Fallback.Name(), cfg.Fallback.Backup(b.Name, readable(b.Backup)))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// readable are the disks whose images could be opened. A volume may span several, so all of a
// backup are looked at together.
func readable(b Backup) []volume.Disk {
	var disks []volume.Disk
	for _, d := range b.Disks {
		if d.Reader != nil {
			disks = append(disks, volume.Disk{Name: d.Name, Reader: d.Reader})
		}
	}
	return disks
}

// leaves tells whether something is left to the fallback.
func (b *backup) leaves() bool {
	for _, d := range b.disks {
		for _, v := range d.vols {
			if v.left {
				return true
			}
		}
	}
	return false
}

// openDisk takes what the scan found on a disk.
func openDisk(b Backup, d Disk, order int, scan volume.Result) *openedDisk {
	od := &openedDisk{disk: d, order: order, mtime: b.Timestamp}
	if od.mtime.IsZero() {
		od.mtime = d.ModTime
	}
	for _, t := range scan.Tables {
		if t.Disk == d.Name {
			od.table = &t
		}
	}
	for _, v := range scan.Volumes {
		if home(b, v) == d.Name {
			od.vols = append(od.vols, &openedVolume{Volume: v})
		}
	}
	return od
}

// home is the disk that a volume is shown with: the one it is on, or the backup's first where
// none of its disks is there.
func home(b Backup, v volume.Volume) string {
	names := []string{v.Disk}
	if v.LV != nil {
		names = append(names, v.LV.Disks...)
	}
	for _, n := range names {
		for _, d := range b.Disks {
			if d.Name == n {
				return n
			}
		}
	}
	if len(b.Disks) > 0 {
		return b.Disks[0].Name
	}
	return ""
}

// open asks the engines for the volume's file system.
func (v *openedVolume) open(engines []engine.Engine) {
	switch {
	case v.Err != nil:
		v.err = v.Err
		v.left = errors.Is(v.Err, fsys.ErrUnsupported) && !errors.Is(v.Err, fsys.ErrCorrupt)
		return
	case v.Reader == nil:
		v.err = errors.New("the volume cannot be addressed")
		return
	case v.Group != "":
		v.sig = engine.Signature{Kind: engine.KindContainer, Type: "LVM2_member"}
		return
	}
	start := time.Now()
	o, err := engine.Open(v.Volume, engines)
	v.took = time.Since(start)
	if err == nil {
		info := o.Info()
		v.content = &content{fs: o.FS, engine: o.Engine, label: info.Label, uuid: info.UUID}
		return
	}
	if u := (*engine.UnsupportedError)(nil); errors.As(err, &u) {
		v.sig = u.Signature
	} else {
		v.sig = engine.Identify(v.Volume)
	}
	// Swap space, an empty partition or a boot loader is not a failure: there are no files.
	hasFiles := v.sig.Kind == engine.KindFilesystem || v.sig.Kind == engine.KindContainer
	if hasFiles || !errors.Is(err, fsys.ErrNotRecognized) {
		v.err = err
		v.left = errors.Is(err, fsys.ErrUnsupported) && !errors.Is(err, fsys.ErrCorrupt)
	}
}

// size is the volume's length in bytes, 0 where it cannot be addressed.
func (v *openedVolume) size() int64 {
	if v.Reader == nil {
		return 0
	}
	return v.Size()
}

// describe names a volume's content in a word or two.
func describe(s engine.Signature) string {
	switch {
	case s.Type != "":
		return s.Type
	case s.Kind == engine.KindEmpty:
		return "zeros"
	}
	return "nothing that this build recognizes"
}
