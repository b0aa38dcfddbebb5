package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// contenders of a format: us and those that can mount it.
func contenders(c config, f format) []mounter {
	ms := []mounter{ours}
	for _, m := range f.peers {
		if c.guest || m.name != guest.name {
			ms = append(ms, m)
		}
	}
	return ms
}

// runsFor is how often m is measured: guestmount takes minutes for what the others do in a second.
func runsFor(c config, m mounter) int {
	if m.name == guest.name {
		return 1
	}
	return c.runs
}

// latency: from the start of the mount to the first byte of a file, image in the page cache.
func latency(c config, im images, r *report) error {
	if c.guest && !kvmWorks() { // also builds the appliance, which is no part of a mount
		log.Printf("guestmount runs without KVM")
		if err := guestWarm(c, im); err != nil {
			return err
		}
	}
	for _, f := range im.formats {
		if err := readAll(f); err != nil {
			return err
		}
		for _, m := range contenders(c, f) {
			var s []float64
			for range runsFor(c, m) {
				start := time.Now()
				mt, err := m.mount(c, f)
				if err != nil {
					return err
				}
				if err := readFirst(filepath.Join(mt.root, bigName)); err != nil {
					return err
				}
				s = append(s, time.Since(start).Seconds()*1000)
				if err := mt.stop(); err != nil {
					return err
				}
			}
			r.add("mount to first byte", f.name, m.name, "ms", s)
		}
	}
	return nil
}

// sequential reads the large file: with nothing cached, with the image cached but the mount
// fresh, and once more (warm: whatever the contender's caches keep). Peak memory is taken after.
func sequential(c config, im images, r *report) error { return sequentialOf(c, im.formats, r) }

func sequentialOf(c config, formats []format, r *report) error {
	for _, f := range formats {
		for _, m := range contenders(c, f) {
			var cold, fresh, warm, mem []float64
			for range runsFor(c, m) {
				one := func(before func() error, into *[]float64, again *[]float64) error {
					mt, err := m.mount(c, f)
					if err != nil {
						return err
					}
					if err := before(); err != nil {
						return err
					}
					big := filepath.Join(mt.root, bigName)
					v, err := throughput(big)
					if err != nil {
						return err
					}
					*into = append(*into, v)
					if again != nil {
						if v, err = throughput(big); err != nil {
							return err
						}
						*again = append(*again, v)
					}
					if p := mt.pids(); len(p) > 0 {
						mem = append(mem, peakMiB(p))
					}
					return mt.stop()
				}
				if err := one(dropCaches, &cold, nil); err != nil {
					return err
				}
				if err := one(func() error { return readAll(f) }, &fresh, &warm); err != nil {
					return err
				}
			}
			r.add("sequential, cold", f.name, m.name, "MiB/s", cold)
			r.add("sequential, image cached", f.name, m.name, "MiB/s", fresh)
			r.add("sequential, warm", f.name, m.name, "MiB/s", warm)
			if len(mem) > 0 {
				r.add("peak memory, sequential", f.name, m.name, "MiB", mem)
			}
			log.Printf("%s %s: cold %.0f, image cached %.0f, warm %.0f MiB/s", f.name, m.name, median(cold), median(fresh), median(warm))
		}
	}
	return nil
}

// small walks and reads many small files with the tools that people use, on a fresh mount with
// the image cached, so that no contender's kernel caches help it.
func small(c config, im images, r *report) error {
	return smallOf(c, []format{im.formats[0], im.formats[3]}, r)
}

func smallOf(c config, formats []format, r *report) error {
	for _, f := range formats {
		for _, m := range contenders(c, f) {
			var find, tar, mem []float64
			for range runsFor(c, m) {
				for _, job := range []struct {
					script string
					into   *[]float64
				}{{`find "$1/small" -ls >/dev/null`, &find}, {`tar -C "$1" -cf - small | cat >/dev/null`, &tar}} {
					if err := readAll(f); err != nil {
						return err
					}
					mt, err := m.mount(c, f)
					if err != nil {
						return err
					}
					start := time.Now()
					if err := sh("bash", "-euo", "pipefail", "-c", job.script, "-", mt.root); err != nil {
						return err
					}
					*job.into = append(*job.into, time.Since(start).Seconds())
					if p := mt.pids(); len(p) > 0 {
						mem = append(mem, peakMiB(p))
					}
					if err := mt.stop(); err != nil {
						return err
					}
				}
			}
			r.add("find -ls", f.name, m.name, "s", find)
			r.add("tar", f.name, m.name, "s", tar)
			if len(mem) > 0 {
				r.add("peak memory, small files", f.name, m.name, "MiB", mem)
			}
			log.Printf("%s %s: find %.2f s, tar %.2f s", f.name, m.name, median(find), median(tar))
		}
	}
	return nil
}

// throughput reads a file from start to end in pieces of 1 MiB and returns MiB/s.
func throughput(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	start := time.Now()
	var n int64
	for {
		k, err := f.Read(buf)
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Size() != n {
		return 0, fmt.Errorf("%s: read %d of %d bytes", path, n, st.Size())
	}
	return float64(n) / (1 << 20) / time.Since(start).Seconds(), nil
}

// readAll brings the disks into the page cache.
func readAll(f format) error {
	return exec.Command("cat", f.disks()...).Run()
}

func readFirst(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// guestWarm mounts once, so that libguestfs has its appliance in its cache.
func guestWarm(c config, im images) error {
	mt, err := guest.mount(c, im.formats[0])
	if err != nil {
		return err
	}
	return mt.stop()
}
