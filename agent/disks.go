package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"vmfr/agent/image"
	"vmfr/agent/sample"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/internal/cli"
)

// diskFlags are the flags that say which disks, the same for all commands.
type diskFlags struct {
	disks      []string
	dir        string
	sample     bool
	vm         string
	timestamps []string
	fallback   fallbackFlags
}

func (f *diskFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.disks, "disk", nil, "a disk image, `BACKUP/DISK=PATH[,format=raw|qcow2]`; repeatable")
	flags.StringVar(&f.dir, "dir", "", "a folder of images: `DIR`/<backup>/<disk>.raw, .img or .qcow2")
	flags.BoolVar(&f.sample, "sample", false, "the embedded sample: one small VM before and after an incident")
	flags.StringVar(&f.vm, "vm", "", "the `NAME` of the virtual machine, for /restores")
	flags.StringArrayVar(&f.timestamps, "timestamp", nil, "when a backup was made, `BACKUP=RFC3339`; repeatable")
	f.fallback.register(flags)
}

// diskHelp explains them.
const diskHelp = `Disks:
  --disk names one image. Its format is found by its content; say format=qcow2 for an image with a
  backing file (looked up beside the image only), and format=raw for a disk whose guest you do not
  trust to have left its first bytes alone. A comma in a path needs format= after it.
  --dir takes all images of a folder; there the file's ending tells the format (.img: its content).
  Other files and links that lead out of the folder are left out with a log line.
  An image that cannot be read is shown with an explanation; a file that is missing is an error.
  ` + fallbackHelp

// opened is the disks of a command line. Close them when nothing reads any more.
type openedDisks struct {
	backups  []worker.Backup
	count    int
	closers  []func() error
	story    *sample.Manifest // of --sample
	fallback *fallback
}

func (o *openedDisks) close() {
	for _, c := range o.closers {
		_ = c()
	}
}

// config is for a command that reads the images itself.
func (o *openedDisks) config(log *slog.Logger) (worker.Config, error) {
	e, err := o.fallback.engine(log)
	return worker.Config{Backups: o.backups, Version: version, Log: log, Fallback: e, NoFallback: o.fallback.none}, err
}

// open opens everything that the flags name, without looking into it.
func (f *diskFlags) open(log *slog.Logger) (_ *openedDisks, err error) {
	if len(f.disks) == 0 && f.dir == "" && !f.sample {
		return nil, cli.Usagef("no disk: name one with --disk BACKUP/DISK=PATH or --dir DIR, or try --sample")
	}
	o := &openedDisks{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	// What is wrong with the command line comes before what is wrong with files.
	var specs []diskSpec
	seen := map[string]bool{}
	for _, arg := range f.disks {
		s, err := parseDisk(arg)
		if err != nil {
			return nil, err
		}
		if seen[s.backup+"/"+s.disk] {
			return nil, cli.Usagef("--disk %s/%s is given twice; give every disk of a backup its own name", s.backup, s.disk)
		}
		seen[s.backup+"/"+s.disk] = true
		specs = append(specs, s)
	}
	if f.vm != "" {
		if err := tree.CheckName("VM", f.vm); err != nil {
			return nil, cli.UsageError{Err: err}
		}
	}
	times, err := f.parseTimestamps()
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		if err := o.addPath(s); err != nil {
			return nil, err
		}
	}
	if f.dir != "" {
		if err := o.addDir(f.dir, log); err != nil {
			return nil, err
		}
	}
	if f.sample {
		if err := o.addSample(); err != nil {
			return nil, err
		}
	}
	if o.fallback, err = f.fallback.open(o.has, o.names(), log); err != nil {
		return nil, err
	}
	return o, o.describe(f.vm, times)
}

// describe sets what the flags say about backups.
func (o *openedDisks) describe(vm string, times map[string]time.Time) error {
	for i := range o.backups {
		b := &o.backups[i]
		if vm != "" {
			b.VM = vm
		}
		if t, ok := times[b.Name]; ok {
			b.Timestamp = t
			delete(times, b.Name)
		}
	}
	for name := range times {
		return cli.Usagef("--timestamp %s: there is no backup of that name; backups are %s", name, strings.Join(o.names(), ", "))
	}
	return nil
}

func (o *openedDisks) names() []string {
	var names []string
	for _, b := range o.backups {
		names = append(names, b.Name)
	}
	sort.Strings(names)
	return names
}

func (f *diskFlags) parseTimestamps() (map[string]time.Time, error) {
	times := map[string]time.Time{}
	for _, arg := range f.timestamps {
		name, value, ok := strings.Cut(arg, "=")
		t, err := time.Parse(time.RFC3339, value)
		if !ok || name == "" || err != nil {
			return nil, cli.Usagef("--timestamp %q: write BACKUP=TIME with a time such as 2026-04-12T02:00:00Z", arg)
		}
		if _, twice := times[name]; twice {
			return nil, cli.Usagef("--timestamp %s is given twice", name)
		}
		times[name] = t
	}
	return times, nil
}

// diskSpec is a parsed --disk.
type diskSpec struct {
	backup, disk, path string
	format             image.Format
}

// parseDisk parses BACKUP/DISK=PATH[,format=F]. The path may hold '=' and, if an option
// follows, commas.
func parseDisk(arg string) (diskSpec, error) {
	bad := func(why string) (diskSpec, error) {
		return diskSpec{}, cli.Usagef("--disk %q: %s; write BACKUP/DISK=PATH[,format=raw|qcow2]", arg, why)
	}
	name, path, ok := strings.Cut(arg, "=")
	if !ok {
		return bad("there is no '='")
	}
	var s diskSpec
	if s.backup, s.disk, ok = strings.Cut(name, "/"); !ok {
		return bad("the name before '=' needs a '/'")
	}
	if err := errors.Join(tree.CheckName("backup", s.backup), tree.CheckName("disk", s.disk)); err != nil {
		return bad(err.Error())
	}
	s.path = path
	if i := strings.LastIndexByte(path, ','); i >= 0 {
		key, value, isOption := strings.Cut(path[i+1:], "=")
		switch {
		case !isOption:
			return bad("after the last comma there is no option; a path with a comma needs format= after it")
		case key != "format":
			return bad(fmt.Sprintf("the option %q is unknown, only format= is known", key))
		}
		s.path = path[:i]
		switch s.format = image.Format(value); s.format {
		case image.FormatRaw, image.FormatQCOW2:
		default:
			return bad(fmt.Sprintf("the format %q is unknown, known are raw and qcow2", value))
		}
	}
	if s.path == "" {
		return bad("the path is empty")
	}
	return s, nil
}

// addPath opens the image of a --disk and its folder, for backing files.
func (o *openedDisks) addPath(s diskSpec) error {
	f, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not block
	if err != nil {
		return fmt.Errorf("disk %s/%s: %w; check the path", s.backup, s.disk, err)
	}
	o.closers = append(o.closers, f.Close)
	if err := checkImageFile(f); err != nil {
		return fmt.Errorf("disk %s/%s: %s %w", s.backup, s.disk, s.path, err)
	}
	d := worker.Disk{Name: s.disk, Source: s.path, File: f, Format: s.format}
	if s.format == image.FormatQCOW2 {
		dir, err := os.OpenRoot(filepath.Dir(s.path))
		if err != nil {
			return fmt.Errorf("disk %s/%s: %w", s.backup, s.disk, err)
		}
		o.closers = append(o.closers, dir.Close)
		d.Dir = dir
	}
	o.add(s.backup, d)
	return nil
}

// checkImageFile refuses what has no bytes to address.
func checkImageFile(f *os.File) error {
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return errors.New("is a folder; name an image file, or use --dir for a folder of backups")
	case st.Mode().IsRegular():
		return nil
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		return nil
	}
	return errors.New("is neither a regular file nor a block device; name an image file")
}

// add puts a disk into its backup.
func (o *openedDisks) add(backup string, d worker.Disk) {
	o.count++
	for i := range o.backups {
		if o.backups[i].Name == backup {
			o.backups[i].Disks = append(o.backups[i].Disks, d)
			return
		}
	}
	o.backups = append(o.backups, worker.Backup{Name: backup, Disks: []worker.Disk{d}})
}

// has tells whether a disk of that name is there already.
func (o *openedDisks) has(backup, disk string) bool {
	for _, b := range o.backups {
		for _, d := range b.Disks {
			if b.Name == backup && d.Name == disk {
				return true
			}
		}
	}
	return false
}

// addSample unpacks the embedded sample.
func (o *openedDisks) addSample() error {
	m, err := sample.Load()
	if err != nil {
		return err
	}
	for _, i := range m.Images {
		if o.has(i.Backup, i.Disk) {
			return cli.Usagef("the sample has a disk %s/%s too; give yours another name", i.Backup, i.Disk)
		}
		f, err := i.Open()
		if err != nil {
			return err
		}
		o.closers = append(o.closers, f.Close)
		o.add(i.Backup, worker.Disk{Name: i.Disk, Source: "embedded sample", File: f, Format: image.Format(i.Format)})
		for k := range o.backups {
			if b := &o.backups[k]; b.Name == i.Backup {
				b.VM, b.Timestamp = m.VM, i.Timestamp
			}
		}
	}
	o.story = &m
	return nil
}
