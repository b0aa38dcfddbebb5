package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
)

// names is the number of files that are searched for one name, in folders of 100.
const names = 200_000

// searchImage makes an ext4 image of empty files, or takes the one of an earlier run.
func searchImage(c config) (format, error) {
	f := format{name: "raw", path: filepath.Join(c.work, "names.raw"), kind: "raw"}
	if _, err := os.Stat(f.path); err == nil {
		return f, nil
	}
	log.Printf("making an image of %d names", names)
	src := filepath.Join(c.work, "names")
	for i := range names {
		d := filepath.Join(src, fmt.Sprintf("e%02d", i/10000), fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return f, err
			}
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file-%06d.txt", i)), nil, 0o644); err != nil {
			return f, err
		}
	}
	part := f.path + ".part"
	_ = os.Remove(part)
	if err := sh("mke2fs", "-q", "-F", "-t", "ext4", "-N", strconv.Itoa(names+names/10), "-d", src, part, "256M"); err != nil {
		return f, err
	}
	return f, errors.Join(os.Rename(part, f.path), os.RemoveAll(src))
}

// searchRows looks for one name among many: with nothing cached and a server that was just
// started, and once more.
func searchRows(c config, _ images, r *report) error {
	f, err := searchImage(c)
	if err != nil {
		return err
	}
	const name = "file-123456.txt"
	var cold, warm [2][]float64
	for range c.runs {
		err := func() (err error) {
			us, err := startWeb(c, f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, us.stop()) }()
			mt, err := kernel.mount(c, f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, mt.stop()) }()
			for k, script := range []string{
				fmt.Sprintf("test $(%s '%s/api/v1/search?name=%s' | grep -c '\"match\"') = 1", us.curl, us.url, name),
				fmt.Sprintf("test $(find %s -name %s | wc -l) = 1", mt.root, name),
			} {
				// The programs themselves are not what is measured.
				err := errors.Join(dropCaches(), sh("bash", "-c", "curl --version; find --version; echo | grep -c a; wc --version; true"))
				if err != nil {
					return err
				}
				for _, to := range []*[]float64{&cold[k], &warm[k]} {
					s, err := timed(script)
					if err != nil {
						return fmt.Errorf("%s: %w", script, err)
					}
					*to = append(*to, s)
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	for k, who := range []string{ours.name, kernel.name} {
		r.add("search among 200,000 names, cold", f.name, who, "s", cold[k])
		r.add("search among 200,000 names, warm", f.name, who, "s", warm[k])
		log.Printf("search %s: cold %.2f s, warm %.2f s", who, median(cold[k]), median(warm[k]))
	}
	return nil
}
