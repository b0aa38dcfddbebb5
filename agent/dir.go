package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/image"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/internal/cli"
)

// endings are the file names that --dir takes, and the format that each stands for. The owner
// of the folder chooses the ending, the guest does not; so .qcow2 may have a backing file.
var endings = map[string]image.Format{".raw": image.FormatRaw, ".img": "", ".qcow2": image.FormatQCOW2}

// addDir opens DIR/<backup>/<disk>.<ending>. Nothing outside dir is opened: os.Root follows no
// link that leads out of it.
func (o *openedDisks) addDir(dir string, log *slog.Logger) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("--dir: %w; name a folder of backups", err)
	}
	defer root.Close()
	backups, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	before := o.count
	for _, e := range backups {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		if err := tree.CheckName("backup", name); err != nil {
			log.Warn("left out of --dir: not a name for a backup", "path", filepath.Join(dir, name), "err", err)
			continue
		}
		switch st, err := root.Stat(name); {
		case err != nil:
			log.Warn("left out of --dir: it cannot be opened inside the folder", "path", filepath.Join(dir, name), "err", err)
			continue
		case !st.IsDir():
			log.Warn("left out of --dir: not a folder of images", "path", filepath.Join(dir, name))
			continue
		}
		if err := o.addBackup(root, dir, name, log); err != nil {
			return err
		}
	}
	if o.count == before {
		return fmt.Errorf("--dir %s holds no image; expected %s", dir, filepath.Join(dir, "<backup>", "<disk>.raw|.img|.qcow2"))
	}
	return nil
}

// addBackup opens the images of one backup's folder.
func (o *openedDisks) addBackup(root *os.Root, dir, backup string, log *slog.Logger) error {
	sub, err := root.OpenRoot(backup)
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	o.closers = append(o.closers, sub.Close)
	entries, err := fs.ReadDir(sub.FS(), ".")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		path := filepath.Join(dir, backup, name)
		ending := filepath.Ext(name)
		format, known := endings[ending]
		disk := strings.TrimSuffix(name, ending)
		if !known {
			log.Warn("left out of --dir: its name does not end in .raw, .img or .qcow2", "path", path)
			continue
		}
		if err := tree.CheckName("disk", disk); err != nil {
			log.Warn("left out of --dir: not a name for a disk", "path", path, "err", err)
			continue
		}
		f, err := sub.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			if err = checkImageFile(f); err != nil {
				_ = f.Close()
			}
		}
		if err != nil {
			log.Warn("left out of --dir: it cannot be opened inside the folder; name it with --disk if it is meant", "path", path, "err", err)
			continue
		}
		o.closers = append(o.closers, f.Close)
		if o.has(backup, disk) {
			return cli.Usagef("disk %s/%s is given twice, the second time as %s; rename one of them", backup, disk, path)
		}
		warnMislabelled(f, format, path, log)
		d := worker.Disk{Name: disk, Source: path, File: f, Format: format}
		if format == image.FormatQCOW2 {
			d.Dir = sub
		}
		o.add(backup, d)
	}
	return nil
}

// warnMislabelled helps whoever named a qcow2 image disk.raw: it would be shown as a disk
// without anything on it.
func warnMislabelled(f *os.File, format image.Format, path string, log *slog.Logger) {
	if format != image.FormatRaw {
		return
	}
	if found, err := image.Detect(f); err == nil && found != format {
		log.Warn("the name ends in .raw but the content looks like "+string(found)+"; it is read as raw", "path", path)
	}
}
