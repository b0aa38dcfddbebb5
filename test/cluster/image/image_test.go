package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"vmfr/test/cluster/image"
	"vmfr/test/fixture"
)

// write writes an image and reads it back.
func write(t *testing.T, i image.Image) (reference string, img v1.Image, archive []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	reference, err := i.Write(path)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = tarball.ImageFromPath(path, nil); err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	if archive, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return reference, img, archive
}

// headers are the files of an image as tar has them.
func headers(t *testing.T, img v1.Image) []*tar.Header {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	var all []*tar.Header
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

// TestWrite: an image is what its files are, whatever their order and times.
func TestWrite(t *testing.T) {
	source := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(source, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []image.File{
		{Path: "/usr/bin/program", Source: source, Mode: 0o755 | fs.ModeSetuid},
		{Path: "/etc/config", Content: []byte("a=b"), Mode: 0o640, UID: 7, GID: 8},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/bin", Link: "usr/bin"},
	}
	i := image.Image{Name: "test", Files: files, Entrypoint: []string{"/usr/bin/program"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, User: "7:8"}
	reference, img, archive := write(t, i)
	if !strings.HasPrefix(reference, "localhost/vmfr/test:") {
		t.Errorf("the reference is %s", reference)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, i.Entrypoint) || !slices.Equal(c.Cmd, i.Cmd) || c.User != "7:8" || c.WorkingDir != "/" ||
		len(c.Env) != 2 || !strings.HasPrefix(c.Env[0], "PATH=") || c.Env[1] != "A=b" {
		t.Errorf("the configuration is %+v", c)
	}
	var got []string
	for _, h := range headers(t, img) {
		got = append(got, strings.Join([]string{fs.FileMode(h.Mode).Perm().String(), h.Name, h.Linkname}, " "))
		if owned := h.Name == "etc/config"; owned != (h.Uid == 7 && h.Gid == 8) || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: %d:%d, %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if special := map[string]int64{"usr/bin/program": 0o4000, "tmp": 0o1000}[h.Name]; h.Mode&0o7000 != special {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
	}
	want := []string{"-rwxrwxrwx bin usr/bin", "-rwxr-xr-x etc ", "-rw-r----- etc/config ", "-rwxrwxrwx tmp ", "-rwxr-xr-x usr ", "-rwxr-xr-x usr/bin ", "-rwxr-xr-x usr/bin/program "}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	slices.Reverse(i.Files)
	if err := os.Chtimes(source, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if again, _, b := write(t, i); again != reference || !bytes.Equal(b, archive) {
		t.Error("the same files make another image")
	}
	if err := os.WriteFile(source, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, _, _ := write(t, i); changed == reference {
		t.Error("another program has the same reference")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for name, files := range map[string][]image.File{
		"relative":       {{Path: "a"}},
		"root":           {{Path: "/"}},
		"outside":        {{Path: "/a/../.."}},
		"twice":          {{Path: "/a"}, {Path: "/a/"}},
		"below a file":   {{Path: "/a"}, {Path: "/a/b"}},
		"below a link":   {{Path: "/a", Link: "b"}, {Path: "/a/b"}},
		"missing":        {{Path: "/a", Source: filepath.Join(dir, "none")}},
		"not a file":     {{Path: "/a", Source: dir}},
		"bad name below": {{Path: "/a/b"}, {Path: "b"}},
	} {
		if _, err := (image.Image{Name: "refused", Files: files}).Write(filepath.Join(dir, "image.tar")); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if _, err := (image.Image{Name: "No Name", Files: []image.File{{Path: "/a"}}}).Write(filepath.Join(dir, "image.tar")); err == nil {
		t.Error("a wrong name: written")
	}
}

// TestProgram: a dynamic program runs where there is nothing but what Program found.
func TestProgram(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "mke2fs", "busybox")
	source, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	program, err := image.Program(source, "/opt/mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	if len(program) < 3 {
		t.Errorf("mke2fs needs %v", program)
	}
	busybox, err := image.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	_, img, _ := write(t, image.Image{Name: "program", Files: image.Merge(program, busybox, image.Accounts(), program)})
	root := t.TempDir()
	unpack(t, img, root)
	for command, want := range map[string]string{"/opt/mke2fs -V": "mke2fs", "sh -c id": "uid=0(root)"} {
		cmd := exec.Command("/bin/busybox", append([]string{"env"}, strings.Fields(command)...)...)
		cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"PATH=/bin"}, "/", &syscall.SysProcAttr{Chroot: root}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}

// unpack lays an image's files out below root.
func unpack(t *testing.T, img v1.Image, root string) {
	t.Helper()
	fixture.Need(t, "tar")
	r := mutate.Extract(img)
	defer r.Close()
	cmd := exec.Command("tar", "-x", "-p", "-C", root)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
}

// TestDir: a folder of the machine, with what an image can hold.
func TestDir(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "a", "empty"), 0o750),
		os.WriteFile(filepath.Join(dir, "a", "file"), []byte("bytes"), 0o640),
		os.Symlink("file", filepath.Join(dir, "a", "link")),
	); err != nil {
		t.Fatal(err)
	}
	owner := os.Getuid()
	if owner == 0 { // only root may give files away
		owner = 7
		if err := os.Lchown(filepath.Join(dir, "a", "file"), owner, owner+1); err != nil {
			t.Fatal(err)
		}
	}
	files, err := image.Dir(dir, "/at")
	if err != nil {
		t.Fatal(err)
	}
	_, img, _ := write(t, image.Image{Name: "dir", Files: files})
	for _, h := range headers(t, img) {
		if h.Name == "at/a/file" && h.Uid != owner {
			t.Errorf("%s belongs to %d", h.Name, h.Uid)
		}
	}
	root := t.TempDir()
	unpack(t, img, root)
	b, err := os.ReadFile(filepath.Join(root, "at", "a", "link"))
	if err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(root, "at", "a", "empty")); err != nil || st.Mode() != fs.ModeDir|0o750 {
		t.Errorf("the empty folder: %v, %v", st, err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Dir(dir, "/at"); err == nil {
		t.Error("a pipe is taken for a file")
	}
}
