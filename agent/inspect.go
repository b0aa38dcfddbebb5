package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/internal/cli"
)

// progressEvery is how often a walk tells how far it is.
const progressEvery = 3 * time.Second

// defaultMaxObjects is above what a file system in practice has and bounds the memory of the
// walk's sets (about 100 bytes for each directory and hard-linked file).
const defaultMaxObjects = 100_000_000

type inspectFlags struct {
	disks    diskFlags
	log      cli.LogFlags
	json     bool
	walk     bool
	listing  string
	limits   walkLimits
	progress bool
}

func inspectCommand() *cobra.Command {
	var f inspectFlags
	c := &cobra.Command{
		Use:   "inspect [--json] [--walk] [--disk BACKUP/DISK=PATH]... [--dir DIR] [--sample]",
		Short: "Show what is on disk images, and whether all of it can be read",
		Long: "Shows for every backup the operating systems and what their fstabs mount, where; for every disk\n" +
			"its format and size, the partition table, and for every volume the file system, label, UUID, size,\n" +
			"use, the state of its journal and all warnings. What no native engine reads is opened too, which\n" +
			"starts a small virtual machine for each backup that needs it, unless --guestfs off is given.\n\n" +
			"With --walk it also reads every file: a backup proven readable. It prints how many objects and\n" +
			"bytes there are, what cannot be read and why, and the SHA-256 of a listing of everything (type,\n" +
			"mode, owner, size, times, link targets, extended attributes, SHA-256 of the content). The same\n" +
			"content gives the same sum on every machine and from every image format. --listing writes that\n" +
			"listing, whose sha256sum it is, in the format of mtree(5).\n\n" +
			"Exit code 3: a disk, a volume or, with --walk, an object cannot be read.\n\n" + diskHelp,
		Example: "  vmfr-agent inspect --disk nightly-0412/rootdisk=disk.qcow2\n" +
			"  vmfr-agent inspect --json --dir /backups\n" +
			"  vmfr-agent inspect --walk --listing all.mtree --dir /backups",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.SortFlags = false
	f.disks.register(flags)
	flags.BoolVar(&f.json, "json", false, "print JSON: the list of backups, or with --walk {\"backups\": ..., \"walk\": ...}")
	flags.BoolVar(&f.walk, "walk", false, "read everything and print counts, errors and a checksum")
	flags.StringVar(&f.listing, "listing", "", "with --walk: write the listing to `FILE`")
	flags.Int64Var(&f.limits.objects, "max-objects", defaultMaxObjects, "with --walk: give up after `N` objects")
	flags.Int64Var(&f.limits.bytes, "max-bytes", 0, "with --walk: give up after `N` bytes of content (0: no limit)")
	flags.BoolVar(&f.progress, "progress", false, "with --walk: tell the progress also where standard error is no terminal")
	f.log.Register(flags)
	f.log.Level = "warn"
	flags.Lookup("log-level").DefValue = "warn"
	return c
}

func (f *inspectFlags) run(c *cobra.Command) error {
	log, err := f.log.Logger(c.ErrOrStderr())
	switch {
	case err != nil:
		return err
	case !f.walk && (f.listing != "" || f.progress):
		return cli.Usagef("--listing and --progress need --walk")
	case f.limits.objects <= 0 || f.limits.bytes < 0:
		return cli.Usagef("--max-objects must be positive and --max-bytes not negative")
	}
	opened, err := f.disks.open(log)
	if err != nil {
		return err
	}
	defer opened.close()
	worker.LimitMemory(opened.count)
	cfg, err := opened.config(log)
	if err != nil {
		return err
	}
	disks, err := worker.Open(c.Context(), cfg)
	if err != nil {
		return interrupted(c.Context(), err)
	}
	defer disks.Close()
	t := disks.Tree
	if err := t.Settle(c.Context()); err != nil && c.Context().Err() != nil {
		return errInterrupted
	}
	if !f.walk {
		if err := f.print(c.OutOrStdout(), t.Backups(), nil); err != nil {
			return err
		}
		return verdict(t.Backups(), nil)
	}
	r, err := f.walkTree(c, t)
	if err != nil {
		return interrupted(c.Context(), err)
	}
	r.failDisks(t.Backups())
	if err := f.print(c.OutOrStdout(), t.Backups(), &r); err != nil {
		return err
	}
	return verdict(t.Backups(), &r)
}

func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// verdict is errUnreadable with a count, or nil.
func verdict(backups []tree.BackupReport, r *walkReport) error {
	_, partial, unreadable := tree.Summary(backups)
	switch {
	case partial+unreadable > 0:
		return fmt.Errorf("%w: %d disks unreadable, %d partly readable; the report says why", errUnreadable, unreadable, partial)
	case r != nil && r.Unreadable > 0:
		return fmt.Errorf("%w: %d objects; the report says which and why", errUnreadable, r.Unreadable)
	}
	return nil
}

// walkTree runs the walk with its listing and progress.
func (f *inspectFlags) walkTree(c *cobra.Command, t *tree.Tree) (r walkReport, err error) {
	var listing io.Writer
	if f.listing != "" {
		file, err := os.Create(f.listing)
		if err != nil {
			return r, fmt.Errorf("--listing: %w", err)
		}
		b := bufio.NewWriter(file)
		listing = b
		defer func() { err = errors.Join(err, b.Flush(), file.Close()) }()
	}
	w := newWalker(t, f.limits, listing)
	if f.progress || isTerminal(os.Stderr) {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		start := time.Now()
		defer w.watched(func(objects, bytes int64) {
			s := time.Since(start).Seconds()
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "inspect: %d objects, %s, %s/s\n", objects, size(uint64(bytes)), size(uint64(float64(bytes)/s)))
		}, tick.C)()
	}
	return w.run(c.Context())
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// print writes the report; r is nil without a walk.
func (f *inspectFlags) print(w io.Writer, backups []tree.BackupReport, r *walkReport) error {
	if f.json {
		var v any = backups
		if r != nil {
			v = map[string]any{"version": 1, "backups": backups, "walk": r}
		}
		b, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			_, err = w.Write(append(b, '\n'))
		}
		return err
	}
	var b strings.Builder
	for i, k := range backups {
		if i > 0 {
			b.WriteByte('\n')
		}
		some := writeBackup(&b, k)
		for j, d := range k.Disks {
			if j > 0 || some {
				b.WriteByte('\n')
			}
			writeTable(&b, k, d)
		}
	}
	if r != nil {
		writeWalk(&b, r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeBackup prints what concerns all disks of a backup, and tells whether there was anything.
// Texts of the guest are made one line.
func writeBackup(b *strings.Builder, k tree.BackupReport) bool {
	start := b.Len()
	for _, s := range k.OperatingSystems {
		fmt.Fprintf(b, "%s: %s", s.Path, cli.OneLine(s.Title()))
		if s.ID != "" {
			fmt.Fprintf(b, " (ID %s, VERSION_ID %s)", cli.OneLine(s.ID), cli.OneLine(dash(s.Version)))
		}
		b.WriteByte('\n')
		writeMounts(b, s, k.Mounts)
	}
	for _, g := range k.VolumeGroups {
		fmt.Fprintf(b, "%s: volume group %s on %s\n", k.Name, cli.OneLine(g.Name), strings.Join(g.Disks, ", "))
		for _, m := range g.Missing {
			fmt.Fprintf(b, "  missing: physical volume %s\n", cli.OneLine(m))
		}
		for _, w := range g.Warnings {
			fmt.Fprintf(b, "  warning: %s\n", cli.OneLine(w))
		}
	}
	if f := k.Fallback; f != nil {
		fmt.Fprintf(b, "%s: %s\n", k.Name, cli.OneLine(f.Sentence()))
		if f.Advice != "" {
			fmt.Fprintf(b, "  what to do: %s\n", cli.OneLine(f.Advice))
		}
	}
	for _, w := range k.Warnings {
		fmt.Fprintf(b, "%s: warning: %s\n", k.Name, cli.OneLine(w))
	}
	return b.Len() > start
}

// writeMounts prints what a system's fstab says.
func writeMounts(b *strings.Builder, s tree.OperatingSystem, all []tree.Mount) {
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	some := false
	for _, m := range all {
		if m.System != s.Path {
			continue
		}
		if !some {
			_, _ = fmt.Fprintln(tw, "  MOUNT POINT\tSOURCE\tTYPE\tDISK\tVOLUME\tSTATE\tNOTE")
			some = true
		}
		_, _ = fmt.Fprintf(tw, "  %s\n", oneLineTabs([]string{dash(m.MountPoint), m.Source, dash(m.Type), dash(m.Disk), dash(m.Volume), string(m.State), dash(m.Note)}))
	}
	_ = tw.Flush()
}

// writeTable prints one disk. Labels are the guest's and therefore quoted.
func writeTable(b *strings.Builder, k tree.BackupReport, d tree.DiskReport) {
	fmt.Fprintf(b, "%s/%s: %s", k.Name, d.Name, d.State)
	if d.Format != "" {
		fmt.Fprintf(b, ", %s", d.Format)
	}
	if d.VirtualSize > 0 {
		fmt.Fprintf(b, ", %s (%d bytes)", size(uint64(d.VirtualSize)), d.VirtualSize)
	}
	if t := d.Table; t != nil {
		fmt.Fprintf(b, ", partition table %s", t.Scheme)
		if t.ID != "" {
			fmt.Fprintf(b, " %s", t.ID)
		}
		if t.SectorSize > 0 {
			fmt.Fprintf(b, ", sectors of %d bytes", t.SectorSize)
		}
	}
	fmt.Fprintf(b, "\n  from %s\n", d.Source)
	if d.Error != "" {
		fmt.Fprintf(b, "  error: %s\n  what to do: %s\n", cli.OneLine(d.Error), cli.OneLine(d.Advice))
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(b, "  warning: %s\n", cli.OneLine(w))
	}
	if len(d.Volumes) > 0 {
		tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(tw, "  VOLUME\tSTART\tSIZE\tPARTITION\tCONTENT\tLABEL\tUUID\tUSED\tENGINE\tJOURNAL")
		for _, v := range d.Volumes {
			row := []string{v.Name, fmt.Sprint(v.Start), size(uint64(v.Size)), dash(v.TypeName), dash(v.Content), "-", "-", "-", "-", "-"}
			if f := v.FileSystem; f != nil {
				if f.Label != "" {
					row[5] = fmt.Sprintf("%q", f.Label)
				}
				row[6], row[7], row[8], row[9] = dash(f.UUID), size(f.Used)+" of "+size(f.Total), f.Engine, dash(f.Journal)
			}
			_, _ = fmt.Fprintf(tw, "  %s\n", oneLineTabs(row))
		}
		_ = tw.Flush()
	}
	for _, v := range d.Volumes {
		for _, p := range append(v.Roots(), v.MountedAt...) {
			if p != d.Path {
				fmt.Fprintf(b, "  %s files: %s\n", v.Name, cli.OneLine(p))
			}
		}
		if v.Error != "" {
			fmt.Fprintf(b, "  %s error: %s\n  %s what to do: %s\n", v.Name, cli.OneLine(v.Error), v.Name, cli.OneLine(v.Advice))
		}
		if v.FileSystem != nil {
			for _, w := range v.FileSystem.Warnings {
				fmt.Fprintf(b, "  %s warning: %s\n", v.Name, cli.OneLine(w))
			}
		}
	}
}

func oneLineTabs(cells []string) string {
	for i := range cells {
		cells[i] = cli.OneLine(cells[i])
	}
	return strings.Join(cells, "\t")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func writeWalk(b *strings.Builder, r *walkReport) {
	fmt.Fprintf(b, "\nRead all of %d file systems:\n  %d files, %d directories, %d symbolic links, %d others; %d further hard links\n"+
		"  %d bytes, %d of them in holes\n", r.FileSystems, r.Files, r.Directories, r.Links, r.Others, r.HardLinks, r.Bytes, r.Holes)
	for _, u := range r.Errors {
		fmt.Fprintf(b, "  unreadable: %q: %s\n", u.Path, cli.OneLine(u.Reason))
	}
	if more := r.Unreadable - int64(len(r.Errors)); more > 0 {
		fmt.Fprintf(b, "  and %d more that are unreadable\n", more)
	}
	if r.Unreadable == 0 {
		b.WriteString("  everything could be read\n")
	}
	fmt.Fprintf(b, "  sha256 of the listing: %s\n", r.SHA256)
}
