package tree

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"sort"
	"strings"
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

// openedDisk is a disk with its volumes, before it has a place in the tree.
type openedDisk struct {
	disk   Disk
	report DiskReport
	mtime  time.Time
	vols   []fsys.FS // parallel to report.Volumes; nil: not a file system that can be read
}

type openedBackup struct {
	backup Backup
	disks  []*openedDisk // sorted by name
}

// openAll finds and opens every file system, a few at a time; the result is sorted by backup
// and disk. Only ctx ends it with an error; then all that was opened is closed.
func openAll(ctx context.Context, cfg Config) ([]openedBackup, error) {
	out := make([]openedBackup, len(cfg.Backups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i, b := range cfg.Backups {
		out[i].backup = b
		scan := scanBackup(b)
		for _, d := range b.Disks {
			od := &openedDisk{disk: d, mtime: b.Timestamp}
			if od.mtime.IsZero() {
				od.mtime = d.ModTime
			}
			out[i].disks = append(out[i].disks, od)
			g.Go(func() error {
				if ctx.Err() == nil {
					od.open(scan, cfg.Engines)
				}
				return ctx.Err()
			})
		}
		sort.Slice(out[i].disks, func(a, c int) bool { return out[i].disks[a].disk.Name < out[i].disks[c].disk.Name })
	}
	if err := g.Wait(); err != nil {
		for _, b := range out {
			for _, d := range b.disks {
				for _, v := range d.vols {
					if v != nil {
						_ = v.Close()
					}
				}
			}
		}
		return nil, err
	}
	sort.Slice(out, func(i, j int) bool { return out[i].backup.Name < out[j].backup.Name })
	return out, nil
}

// scanBackup looks for volumes on all disks of a backup at once, since one volume may span several.
func scanBackup(b Backup) volume.Result {
	var disks []volume.Disk
	for _, d := range b.Disks {
		if d.Reader != nil {
			disks = append(disks, volume.Disk{Name: d.Name, Reader: d.Reader})
		}
	}
	return volume.Scan(disks)
}

// open fills the disk's report and opens its volumes.
func (d *openedDisk) open(scan volume.Result, engines []engine.Engine) {
	d.report = DiskReport{Name: d.disk.Name, Source: d.disk.Source, Format: d.disk.Format, Volumes: []VolumeReport{}}
	if d.disk.Err != nil {
		d.report.State = StateUnreadable
		d.report.Error = d.disk.Err.Error()
		d.report.Advice = "Check that the image is complete and of the stated format."
		return
	}
	d.report.VirtualSize = d.disk.Reader.Size()
	for _, t := range scan.Tables {
		if t.Disk != d.disk.Name {
			continue
		}
		d.report.Table = &TableReport{Scheme: t.Scheme, SectorSize: t.SectorSize, ID: t.ID}
		d.report.Warnings = append(d.report.Warnings, t.Warnings...)
		if t.Err != nil {
			d.report.Error = t.Err.Error()
			d.report.Advice = "The partition table cannot be used. The whole disk is under /disks for recovery tools; try another backup."
		}
	}
	for _, v := range scan.Volumes {
		if v.Disk == d.disk.Name {
			r, o := openVolume(v, engines)
			d.report.Volumes = append(d.report.Volumes, r)
			d.vols = append(d.vols, o)
		}
	}
	d.report.State = d.state()
	if d.report.State == StateUnreadable && d.report.Error == "" {
		d.explain()
	}
}

// state judges the disk by its file systems: what holds none (swap, boot loader, empty) does not count.
func (d *openedDisk) state() State {
	good, bad := 0, 0
	for i, v := range d.vols {
		switch {
		case v != nil:
			good++
		case d.report.Volumes[i].Error != "":
			bad++
		}
	}
	switch {
	case good > 0 && bad == 0 && d.report.Error == "":
		return StateReadable
	case good > 0:
		return StatePartial
	}
	return StateUnreadable
}

// explain says why no file system is served, from what the volumes hold.
func (d *openedDisk) explain() {
	var why []string
	for _, v := range d.report.Volumes {
		if v.Error != "" {
			why = append(why, v.Name+": "+v.Error)
			d.report.Advice = v.Advice
		} else {
			why = append(why, v.Name+" holds "+v.Content)
		}
	}
	if len(why) == 0 {
		why = []string{"nothing that is known was found on it"}
	}
	d.report.Error = "no file system that can be served: " + strings.Join(why, "; ")
	if d.report.Advice == "" {
		d.report.Advice = "The whole disk is under /disks for other tools."
	}
}

// openVolume asks the engines for the volume's file system.
func openVolume(v volume.Volume, engines []engine.Engine) (VolumeReport, fsys.FS) {
	r := VolumeReport{
		Name: v.Name, Label: v.Label, UUID: v.UUID, Type: v.Type, TypeName: v.TypeName,
		Start: v.Start, Size: v.Size(),
	}
	start := time.Now()
	o, err := engine.Open(v, engines)
	r.OpenTime = time.Since(start)
	if err == nil {
		info := o.Info()
		r.Content = info.Type
		r.FileSystem = &FileSystemReport{
			Type: info.Type, Engine: o.Engine, Label: info.Label, UUID: info.UUID, BlockSize: info.BlockSize,
			Total: info.Total, Used: info.Total - min(info.Free, info.Total), Files: info.Files, FreeFiles: info.FreeFiles,
			Journal: info.Journal, Warnings: info.Warnings,
		}
		return r, o.FS
	}
	var sig engine.Signature
	if u := (*engine.UnsupportedError)(nil); errors.As(err, &u) {
		sig = u.Signature
	} else {
		sig = engine.Identify(v)
	}
	r.Content = describe(sig)
	// Swap space, an empty partition or a boot loader is not a failure: there are no files.
	hasFiles := sig.Kind == engine.KindFilesystem || sig.Kind == engine.KindContainer
	if hasFiles || !errors.Is(err, fsys.ErrNotRecognized) {
		r.Error = err.Error()
		r.Advice = KindOf(err).Advice()
	}
	return r, nil
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
