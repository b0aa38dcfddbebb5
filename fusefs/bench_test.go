package fusefs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// The benchmarks pair FUSE with the kernel's own mount of the same image, in turns, and report
// the seconds of each and their ratio. The client is a program of its own, mounts are fresh.
//
//	go test -run - -bench . -benchtime 5x ./fusefs

// small makes an image of 200 folders with 100 files of 100 bytes to 8 KiB each.
func small(b *testing.B) string {
	img := fixture.Ext4(b, "", 512<<20, "-b", "4096", "-N", "40000")
	dir := fixture.Mount(b, img, "ext4", "rw", 0, 0)
	data := make([]byte, 8<<10)
	for d := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("dir%03d", d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%02d.txt", f)), data[:100+(d*100+f)*97%8092], 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	fixture.Unmount(b, dir)
	return img
}

// large makes an image with one file of a GiB.
func large(b *testing.B) string {
	img := fixture.Ext4(b, "", 1200<<20, "-b", "4096")
	dir := fixture.Mount(b, img, "ext4", "rw", 0, 0)
	fixture.Run(b, "sh", "-c", "yes 0123456789abcdef | head -c 1G > '"+dir+"/big'")
	fixture.Unmount(b, dir)
	return img
}

// client runs a shell command in a directory and returns how long it took.
func client(b *testing.B, dir, command string) time.Duration {
	start := time.Now()
	fixture.Run(b, "sh", "-c", "cd '"+dir+"' && "+command)
	return time.Since(start)
}

// forget drops an image from the page cache.
func forget(b *testing.B, img string) {
	f, err := os.Open(img)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	_ = f.Sync()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

// pair measures a command on fresh mounts of both kinds. again is the second run on the same mount.
func pair(b *testing.B, img, command string, cold, again bool) {
	var kernel, fuse time.Duration
	for b.Loop() {
		for _, side := range []*time.Duration{&kernel, &fuse} {
			if cold {
				forget(b, img)
			} else {
				fixture.Run(b, "sh", "-c", "cat '"+img+"' > /dev/null")
			}
			var dir string
			var done func()
			if side == &kernel {
				dir, done = loop(b, img)
			} else {
				dir, done = fused(b, img)
			}
			if again {
				client(b, dir, command)
			}
			*side += client(b, dir, command)
			done()
		}
	}
	n := time.Duration(b.N)
	b.ReportMetric((kernel / n).Seconds(), "kernel-s")
	b.ReportMetric((fuse / n).Seconds(), "fuse-s")
	b.ReportMetric(kernel.Seconds()/fuse.Seconds(), "speed/kernel")
	b.ReportMetric(0, "ns/op")
}

func loop(b *testing.B, img string) (string, func()) {
	dir, err := os.MkdirTemp(b.TempDir(), "k")
	if err != nil {
		b.Fatal(err)
	}
	fixture.Run(b, "mount", "-o", "loop,ro,noload", img, dir)
	return dir, func() { fixture.Run(b, "umount", dir) }
}

func fused(b *testing.B, img string) (string, func()) {
	dir, err := os.MkdirTemp(b.TempDir(), "f")
	if err != nil {
		b.Fatal(err)
	}
	s, err := Mount(dir, newTree(b, native{}, img), Options{Counters: &tree.Counters{}})
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, "backups/b/d0"), func() {
		if err := s.Unmount(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSequential(b *testing.B) {
	img := large(b)
	for _, c := range []struct {
		name, command string
		cold, again   bool
	}{
		{"warm", "dd if=big of=/dev/null bs=1M status=none", false, false},
		{"again", "dd if=big of=/dev/null bs=1M status=none", false, true},
		{"cold", "dd if=big of=/dev/null bs=1M status=none", true, false},
		{"cat", "cat big > /dev/null", false, false},
	} {
		b.Run(c.name, func(b *testing.B) { pair(b, img, c.command, c.cold, c.again) })
	}
}

func BenchmarkSmall(b *testing.B) {
	if _, err := exec.LookPath("tar"); err != nil {
		b.Skip(err)
	}
	img := small(b)
	for name, command := range map[string]string{
		"find":   "find . > /dev/null",
		"findls": "find . -ls > /dev/null",
		"tar":    "tar -cf - . | cat > /dev/null",
	} {
		b.Run(name, func(b *testing.B) { pair(b, img, command, false, false) })
	}
}
