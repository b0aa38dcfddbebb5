package ntfs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// noise returns bytes that do not compress.
func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// populate makes one object of each kind that ntfs-3g can make.
func populate(t testing.TB, dir string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(dir, s) }
	write(t, p("empty"), nil)
	write(t, p("resident"), []byte("a few bytes"))
	write(t, p("mapped"), noise(1, 100_000))
	write(t, p("dir/sub/deep/file"), noise(2, 5000))
	for i := range 120 {
		write(t, p(fmt.Sprintf("many/Entry %03d %s", i, strings.Repeat("n", i))), []byte{byte(i)})
	}
	for i := range 40 {
		check(t, os.Link(p("mapped"), p(fmt.Sprintf("dir/link %02d", i))))
	}
	for _, n := range []string{"Case", "case", "CASE", "caSe/x"} {
		write(t, p("cases/"+strings.ReplaceAll(n, "/", "_")), []byte(n))
	}
	for _, n := range []string{"new\nline", "tab\t", "back\\slash", "ünïcödé", "日本語", "emoji \U0001F600", "half \xed\xa0\x80", "other half \xed\xb0\x80", "\xed\xb0\x80\xed\xa0\x80 swapped", strings.Repeat("w", 255), strings.Repeat("日", 255), " lead", "trail ", "dot.", "con", "a:b?*<>|\""} {
		write(t, p("names/"+n), []byte(n))
	}
	write(t, p("ads"), []byte("with streams"))
	for i := range 30 {
		check(t, unix.Setxattr(p("ads"), fmt.Sprintf("user.stream %02d", i), noise(uint64(i), i*i*10), 0))
	}
	check(t, unix.Setxattr(p("dir"), "user.of a directory", []byte("value"), 0))
	check(t, unix.Setxattr(p("dir"), "user.large", noise(9, 60_000), 0))
	check(t, os.Symlink("dir/sub", p("interix link")))
	check(t, os.Symlink("/absolute/ünï", p("dir/interix absolute")))
	check(t, unix.Mknod(p("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	check(t, unix.Mknod(p("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	check(t, unix.Mkfifo(p("fifo"), 0o600))
	f, err := os.Create(p("sparse"))
	check(t, err)
	for _, off := range []int64{0, 1 << 20, 3<<20 + 5} {
		_, err = f.WriteAt(noise(uint64(off), 5000), off)
		check(t, err)
	}
	check(t, f.Truncate(4<<20))
	check(t, f.Close())
}

func TestGeometries(t *testing.T) {
	for _, g := range []struct {
		name string
		size int64
		opts []string
	}{
		{"512", 32 << 20, []string{"-c", "512"}},
		{"1k", 32 << 20, []string{"-c", "1024"}},
		{"4k", 64 << 20, []string{"-c", "4096", "-L", "A label ü"}},
		{"64k", 64 << 20, []string{"-c", "65536"}},
		{"2M", 512 << 20, []string{"-c", "2097152"}},
		{"4k sectors", 64 << 20, []string{"-s", "4096", "-c", "4096"}},
		{"1k sectors", 64 << 20, []string{"-s", "1024", "-c", "8192"}},
	} {
		t.Run(g.name, func(t *testing.T) {
			img := makeNTFS(t, g.size, g.opts...)
			dir := mount(t, img)
			populate(t, dir)
			unmount(t, img, dir)
			fs := openImage(t, img)
			fsystest.Run(t, fs, manifest(t, img))
			t.Logf("%+v", fs.Info())
			if i := fs.Info(); i.Journal != "clean" || len(i.Warnings) > 0 {
				t.Errorf("%+v", i)
			}
			if i := fs.Info(); !strings.Contains(fixture.Run(t, "blkid", "-p", img), `UUID="`+i.UUID+`"`) {
				t.Errorf("%+v", i)
			}
		})
	}
}
