package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"vmfr/agent/engine"
	"vmfr/agent/image"
	"vmfr/agent/tree"
)

// Backup is one point in time of a VM, as opened files.
type Backup struct {
	Name      string // see tree.CheckName
	VM        string // empty: unknown
	Timestamp time.Time
	Disks     []Disk
}

// Disk is one disk of a backup. Its files stay the caller's and must stay open until Close.
type Disk struct {
	Name   string       // see tree.CheckName
	Source string       // for people: where the image comes from
	File   *os.File     // open for reading
	Format image.Format // empty: detect it by content
	Dir    image.Folder // where backing files are looked up; nil: nowhere
	Err    error        // why there is no File; the tree tells it
}

const (
	// openAtOnce bounds the images opened at a time: opening waits for storage, not for a processor.
	openAtOnce = 8
	// clusterBudget is shared by the inflated clusters of all images, in bytes: the eight
	// images that a busy session reads at a time have the default each.
	clusterBudget = 8 * image.DefaultCacheBytes
)

// Disks is the opened disks of a session and the tree over them.
type Disks struct {
	Tree   *tree.Tree
	images []disk
	reads  *storage
}

// disk is a disk's image; image is nil where it could not be opened.
type disk struct {
	backup, disk string
	image        *image.Image
	took         time.Duration
}

// Open opens all images of c, several at a time, and joins the tree. An image that cannot be read
// is part of the tree as an explanation. Errors are those of tree.New.
func Open(ctx context.Context, c Config) (_ *Disks, err error) {
	d := &Disks{reads: c.storage}
	if d.reads == nil {
		d.reads = newStorage(c.Backups, slog.New(slog.DiscardHandler)) // and nobody looks
	}
	cfg := tree.Config{Engines: engine.Native(), Fallback: c.Fallback, NoFallback: c.NoFallback, KeySource: c.KeySource, Version: c.Version}
	for _, b := range c.Backups {
		tb := tree.Backup{Name: b.Name, VM: b.VM, Timestamp: b.Timestamp, Disks: make([]tree.Disk, len(b.Disks))}
		cfg.Backups = append(cfg.Backups, tb)
		for _, k := range b.Disks {
			d.images = append(d.images, disk{backup: b.Name, disk: k.Name})
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.closeImages())
		}
	}()
	opts := image.Options{CacheBytes: clusterBudget / int64(max(8, len(d.images)))}
	var g errgroup.Group
	g.SetLimit(openAtOnce)
	i := 0
	for bi, b := range c.Backups {
		for ki, k := range b.Disks {
			o, out := &d.images[i], &cfg.Backups[bi].Disks[ki]
			opts := opts
			opts.Reads = d.reads.disks[i].reads
			i++
			g.Go(func() error {
				*out = o.open(k, opts)
				return ctx.Err()
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if c.Opened != nil {
		if err := c.Opened(); err != nil {
			return nil, err
		}
	}
	if d.Tree, err = tree.New(ctx, cfg); err != nil {
		return nil, err
	}
	return d, nil
}

// open opens one image and describes it for the tree.
func (o *disk) open(k Disk, opts image.Options) tree.Disk {
	t := tree.Disk{Name: k.Name, Source: k.Source, Format: string(k.Format)}
	if k.Err != nil {
		t.Err = k.Err
		return t
	}
	if st, err := k.File.Stat(); err == nil {
		t.ModTime, t.Blocks = st.ModTime(), blocks(st)
	}
	opts.Dir = k.Dir
	start := time.Now()
	m, err := openImage(image.Source{File: k.File, Format: k.Format}, opts)
	o.took = time.Since(start)
	if err != nil {
		t.Err = err
		return t
	}
	o.image = m
	t.Reader, t.Format = m, string(m.Info().Format)
	return t
}

// openImage is image.Open with the last net: an image's header is a stranger's data.
func openImage(s image.Source, o image.Options) (m *image.Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("image: internal error, please report it: %v\n%s", p, debug.Stack())
		}
	}()
	return image.Open(s, o)
}

// Close closes the tree and the images. Nothing may use them any more.
func (d *Disks) Close() error { return errors.Join(d.Tree.Close(), d.closeImages()) }

func (d *Disks) closeImages() error {
	var errs []error
	for _, o := range d.images {
		if o.image != nil {
			errs = append(errs, o.image.Close())
		}
	}
	return errors.Join(errs...)
}
