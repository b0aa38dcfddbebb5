// Command bench measures vmfr-agent against the kernel's loop mount (the limit), guestmount
// (what OADP uses) and OpenSSH's sftp-server, all in one run on the same images, and writes
// medians and ratios as Markdown and JSON and a chart as SVG.
//
// It needs root, loop devices, libguestfs and about 8 GiB in the temporary directory. Every
// number is measured here; nothing is asserted. Non-goal: comparing numbers between runs or
// machines, which says little; the ratios of one run are what counts.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

type config struct {
	agent   string // path of the vmfr-agent binary
	out     string // folder of benchmarks.md, .json and .svg
	work    string // folder of images and mount points
	runs    int    // repetitions of everything but guestmount's slow rows
	fileMiB int    // size of the large file
	files   int    // number of small files
	guest   bool   // measure guestmount too
	only    string // comma-separated groups; empty: all
	keep    bool   // keep the rows of out that this run does not measure
}

func main() {
	log.SetFlags(log.Ltime)
	var c config
	flag.StringVar(&c.agent, "agent", "bin/vmfr-agent", "the binary to measure")
	flag.StringVar(&c.out, "out", "", "write benchmarks.md, benchmarks.json and benchmarks.svg to this folder")
	flag.StringVar(&c.work, "work", "", "keep images in this folder and use them again (default: a temporary one)")
	flag.IntVar(&c.runs, "runs", 5, "repetitions of each measurement")
	flag.IntVar(&c.fileMiB, "size", 1024, "size of the large file in MiB")
	flag.IntVar(&c.files, "files", 20000, "number of small files")
	flag.BoolVar(&c.guest, "guestmount", true, "measure guestmount too (slow)")
	flag.StringVar(&c.only, "only", "", "measure only these groups: latency,sequential,small,formats,sftp,streams,rsync,https,audit,search")
	flag.BoolVar(&c.keep, "keep", false, "keep the rows of the folder's benchmarks.json that are not measured now")
	flag.Parse()
	if err := run(c); err != nil {
		log.Fatal(err)
	}
}

func run(c config) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("bench mounts file systems: run it as root")
	}
	agent, err := filepath.Abs(c.agent)
	if err != nil {
		return err
	}
	c.agent = agent
	if c.work == "" {
		if c.work, err = os.MkdirTemp("", "vmfr-bench"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(c.work) }()
	}
	im, err := makeImages(c)
	if err != nil {
		return err
	}
	r := &report{Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), Runs: c.runs, FileMiB: c.fileMiB, Files: c.files}
	for _, g := range []struct {
		name string
		run  func(config, images, *report) error
	}{{"latency", latency}, {"sequential", sequential}, {"small", small}, {"formats", formats}, {"sftp", sftpThroughput}, {"streams", sftpStreams}, {"rsync", rsyncThroughput}, {"https", httpsRows}, {"audit", auditRows}, {"search", searchRows}} {
		if c.only != "" && !strings.Contains(","+c.only+",", ","+g.name+",") {
			continue
		}
		log.Printf("measuring: %s", g.name)
		if err := g.run(c, im, r); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	if c.keep && c.out != "" {
		if err := r.keep(c.out); err != nil {
			return err
		}
	}
	fmt.Print(r.markdown())
	if c.out == "" {
		return nil
	}
	return r.write(c.out)
}
