package main

import (
	"fmt"
	"regexp"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/internal/cli"
)

// A word that means itself to every shell and in a URL. Names of a guest are a stranger's: a
// command that is meant to be pasted holds none that could mean anything else.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

func plainWord(s string) bool { return plain.MatchString(s) }

const (
	// exampleDirs and exampleEntries bound the search for a file to show.
	exampleDirs    = 64
	exampleEntries = 256
)

// exampleFile finds a file to show in commands: a well-known one of the first system there is,
// or the first regular file that a short search meets.
func exampleFile(t *tree.Tree) string {
	var roots []string
	for _, b := range t.Backups() {
		for _, d := range b.Disks {
			for _, v := range d.Volumes {
				if v.FileSystem != nil && plainWord(v.Path) {
					roots = append(roots, v.Path)
				}
			}
		}
	}
	for _, root := range roots[:min(len(roots), exampleDirs)] {
		for _, name := range []string{"/etc/hosts", "/etc/os-release", "/etc/fstab"} {
			if n, err := t.Resolve(root+name, false); err == nil {
				if a, err := t.Attr(n); err == nil && a.IsRegular() {
					return root + name
				}
			}
		}
	}
	todo := roots
	for i := 0; i < len(todo) && i < exampleDirs; i++ {
		n, err := t.Resolve(todo[i], false)
		if err != nil {
			continue
		}
		entries := make([]fsys.Dirent, exampleEntries)
		k, _ := t.ReadDir(n, 0, entries)
		for _, e := range entries[:k] {
			path := todo[i] + "/" + e.Name
			c, ok := t.ByID(uint64(e.Ino))
			if !ok || !plainWord(path) {
				continue
			}
			a, err := t.Attr(c)
			switch {
			case err != nil:
			case a.IsRegular():
				return path
			case a.IsDir() && !t.Volatile(c): // that would start an appliance
				todo = append(todo, path)
			}
		}
	}
	return "/README.txt"
}

// writeDisk describes one disk for a person.
func writeDisk(b *strings.Builder, backup string, d tree.DiskReport) {
	fmt.Fprintf(b, "  %s/%s: %s", backup, d.Name, d.State)
	if d.VirtualSize > 0 {
		fmt.Fprintf(b, ", %s, %s", d.Format, size(uint64(d.VirtualSize)))
	}
	if d.Source != "" {
		fmt.Fprintf(b, ", from %s", d.Source)
	}
	b.WriteString("\n")
	if d.Error != "" {
		fmt.Fprintf(b, "    error: %s\n", cli.OneLine(d.Error))
		fmt.Fprintf(b, "    what to do: %s\n", cli.OneLine(d.Advice))
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(b, "    warning: %s\n", cli.OneLine(w))
	}
	if d.State == tree.StatePending {
		b.WriteString("    libguestfs reads some of it; that starts when its folder is opened and can take a minute\n")
	}
	for _, v := range d.Volumes {
		if v.FileSystem == nil {
			if v.Error != "" && d.Error == "" {
				fmt.Fprintf(b, "    %s: error: %s\n", v.Name, cli.OneLine(v.Error))
			}
			continue
		}
		f := v.FileSystem
		fmt.Fprintf(b, "    %s  %s", v.Path, f.Type)
		if f.Label != "" {
			fmt.Fprintf(b, " %q", f.Label)
		}
		fmt.Fprintf(b, ", %s of %s used", size(f.Used), size(f.Total))
		if f.Journal != "" {
			fmt.Fprintf(b, ", journal %s", cli.OneLine(f.Journal))
		}
		b.WriteString("\n")
		for _, w := range f.Warnings {
			fmt.Fprintf(b, "      warning: %s\n", cli.OneLine(w))
		}
	}
}

// size is n bytes for a person.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
