package web_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/api/files"
	"vmfr/test/fixture"
)

const (
	testUser     = "oadp"
	testPassword = "correct horse battery"
	disk1        = "/backups/b1/root"
	disk2        = "/backups/b2/root"
	// many is how many entries the largest folder has.
	many = 100_000
)

// hostile are names that try to be something else: all that ext4 takes.
var hostile = []string{
	`"><script>window.pwned=1<`, `'><img src=x onerror=window.pwned=1>`, "line\nbreak", "tab\there", "bell\a\x1b[31mred", "evil\u202egpj.exe", "\u2066iso\u2069",
	"bad-\xff\xfe", "-rf", "$(touch pwned)", "`id`", "a;b|c&d", "star*?[x]", "50% {{.}} ${x}", "  spaces  ", `back\slash`, "quote'd", strings.Repeat("w", 250),
	"../x"[:2] + ".", "\u0301\u0301\u0301zalgo", "javascript:alert(1)", "nul%00", "a\u00a0b", "\ufffd real",
}

type native struct{}

func (native) Name() string { return "ext4" }

func (native) Open(v volume.Volume) (fsys.FS, error) {
	f, err := ext4.Open(v, ext4.Options{})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// backups makes two states of a disk with the kernel: one with everything that a page can meet, one later.
func backups(t *testing.T) (string, string) {
	t.Helper()
	fixture.NeedRoot(t)
	first := fixture.Ext4(t, "", 96<<20)
	mnt := fixture.Mount(t, first, "ext4", "rw", 0, 0)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, b []byte) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(filepath.Join(mnt, name)), 0o755))
		must(os.WriteFile(filepath.Join(mnt, name), b, 0o640))
	}
	write("etc/os-release", []byte("ID=debian\nPRETTY_NAME=\"Debian <b>12</b>\"\n"))
	write("etc/app.conf", []byte("# settings\nport = 80\nname = \"shop\"\n"))
	write("src/main.go", []byte("package main\n\n// main says <script>window.pwned=1</script>\nfunc main() { println(\"hi\", 42) }\n"))
	write("docs/bom16.txt", append([]byte{0xff, 0xfe}, utf16Bytes("Größe: 10 €\r\nzweite Zeile\r\n")...))
	write("docs/nobom16.reg", utf16Bytes("Windows Registry Editor Version 5.00\r\n"))
	write("docs/latin1.txt", []byte("caf\xe9 cr\xe8me\n"))
	write("docs/paper.pdf", paper())
	write("docs/page.html", []byte("<script>window.pwned=1</script><h1>owned</h1>"))
	write("docs/pic.svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg" onload="window.pwned=1"><script>window.pwned=1</script></svg>`))
	write("docs/data.bin", bytes.Repeat([]byte{0, 1, 2, 0xfe, 'A'}, 2000))
	write("docs/empty", nil)
	var picture bytes.Buffer
	must(png.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 48))))
	write("docs/pic.png", picture.Bytes())
	write("docs/big.log", []byte(strings.Repeat("a line of a log that is long enough to matter\n", 20000)))
	for _, n := range hostile {
		write("hostile/"+n, []byte("content of "+fmt.Sprintf("%q", n)+"\n"))
	}
	must(os.Symlink("../etc/app.conf", filepath.Join(mnt, "docs", "link")))
	must(os.Symlink("/nowhere/<b>", filepath.Join(mnt, "docs", "dangling")))
	must(os.Chown(filepath.Join(mnt, "etc", "app.conf"), 107, 3000000000))
	fixture.Run(t, "setfacl", "-m", "u:1234:rw-", filepath.Join(mnt, "etc", "app.conf"))
	fixture.Run(t, "chmod", "u=rwxs", filepath.Join(mnt, "etc", "app.conf"))
	fixture.Run(t, "setfattr", "-n", "user.note", "-v", "<i>hello</i>", filepath.Join(mnt, "etc", "app.conf"))
	must(os.Mkdir(filepath.Join(mnt, "many"), 0o755))
	for i := range many { // names of few files: a folder's length is what counts
		name := filepath.Join(mnt, "many", fmt.Sprintf("entry-%06d.log", i))
		if i%50000 == 0 {
			must(os.WriteFile(name, nil, 0o600))
			continue
		}
		must(os.Link(filepath.Join(mnt, "many", fmt.Sprintf("entry-%06d.log", i-i%50000)), name))
	}
	fixture.Unmount(t, mnt)
	second := filepath.Join(t.TempDir(), "second.raw")
	fixture.Run(t, "cp", "--sparse=always", first, second)
	mnt = fixture.Mount(t, second, "ext4", "rw", 0, 0)
	write("etc/app.conf", []byte("# settings\nport = 8080\nname = \"shop\"\nnew = <b>\n"))
	must(os.Remove(filepath.Join(mnt, "src", "main.go")))
	write("src/other.go", []byte("package other\n"))
	fixture.Unmount(t, mnt)
	return first, second
}

// paper is a PDF of one blue page that tries to open a dialog and to call an address of ours.
func paper() []byte {
	content := "0 0 1 rg 0 0 400 400 re f"
	objects := []string{
		"<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert\\('pwned'\\);this.submitForm\\('/logout'\\);)>>>>",
		"<</Type/Pages/Kids[3 0 R]/Count 1>>",
		"<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 400]/Contents 4 0 R>>",
		fmt.Sprintf("<</Length %d>>stream\n%s\nendstream", len(content), content),
	}
	var b bytes.Buffer
	b.WriteString("%PDF-1.4\n")
	var at []int
	for i, o := range objects {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj%s endobj\n", i+1, o)
	}
	start := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, o := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, start)
	return b.Bytes()
}

func utf16Bytes(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// serve serves the two backups and a third whose disk cannot be read.
func serve(t *testing.T, images ...string) (address string) {
	t.Helper()
	cfg := tree.Config{Engines: []engine.Engine{native{}}, Version: "test"}
	for i, img := range images {
		cfg.Backups = append(cfg.Backups, tree.Backup{
			Name: fmt.Sprintf("b%d", i+1), VM: "web", Timestamp: time.Date(2026, 4, 12+i, 2, 0, 0, 0, time.UTC),
			Disks: []tree.Disk{{Name: "root", Format: "raw", Reader: fixture.OpenRaw(t, img), ModTime: time.Unix(1e9, 0)}},
		})
	}
	cfg.Backups = append(cfg.Backups, tree.Backup{Name: "b3", VM: "web", Timestamp: time.Date(2026, 4, 14, 2, 0, 0, 0, time.UTC),
		Disks: []tree.Disk{{Name: "root", Format: "qcow2", Err: errors.New("the image is <b>damaged</b>")}}})
	tr, err := tree.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, pair, err := files.SelfSigned([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- files.Serve(ctx, l, tr, files.Config{User: testUser, Password: testPassword, Certificate: cert, Version: "test", SSHPort: 2222,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = tr.Close()
	})
	return "https://" + l.Addr().String()
}

// unzip reads an archive into its files.
func unzip(t *testing.T, path string) map[string]string {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f.Name, "/") {
			out[f.Name] = string(b)
		}
	}
	return out
}
