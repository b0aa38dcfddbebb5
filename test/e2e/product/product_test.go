package product_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"vmfr/test/cluster"
	"vmfr/test/e2e/product"
	"vmfr/test/fixture"
)

var given = flag.String("image-archive", "", "test this `file`, made by `make image-local` or `podman save`, not a slim image of this tree")

const (
	version   = "v0-test"
	moduleDir = "../../.."
	labels    = "org.opencontainers.image."
	appliance = "/usr/lib/vmfr/appliance"
)

// TestImage: the image has what the Dockerfile says, what its Pods run works in it, and nothing is
// in it that gives rights away, differs from build to build for no reason, or is of the machine
// that built it.
func TestImage(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "debootstrap", "tar")
	archive, want := *given, ""
	if archive == "" {
		if testing.Short() {
			t.Skip("debootstrap takes a minute the first time")
		}
		archive, want = filepath.Join(t.TempDir(), "vmfr.tar"), version
		if err := os.MkdirAll(cluster.CacheDir(), 0o755); err != nil {
			t.Fatal(err)
		}
		reference, err := product.Image(t.Context(), moduleDir, archive, version)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(reference, "localhost/vmfr/vmfr-slim:") {
			t.Errorf("the reference is %q", reference)
		}
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	full := checkConfig(t, img, &want)
	root := t.TempDir()
	unpack(t, img, root)
	programs := []string{"/vmfr-agent", "/vmfr-controller"}
	for _, p := range programs {
		if f, err := elf.Open(filepath.Join(root, p)); err != nil {
			t.Error(err)
		} else {
			if slices.ContainsFunc(f.Progs, func(h *elf.Prog) bool { return h.Type == elf.PT_INTERP }) {
				t.Errorf("%s is not static", p)
			}
			_ = f.Close()
		}
	}
	if full {
		programs = append(programs, "/usr/lib/vmfr/vmfr-agent-guestfs")
		for _, name := range []string{"kernel", "initrd", "root", "README.fixed"} {
			if st, err := os.Stat(filepath.Join(root, appliance, name)); err != nil || st.Mode().Perm() != 0o644 || st.Size() == 0 {
				t.Errorf("the appliance's %s: %v, %v", name, st, err)
			}
		}
		within(t, root, "/usr/bin/qemu-system-x86_64", "--version")
		within(t, root, "/usr/bin/qemu-img", "--version")
	}
	for _, p := range programs {
		if out := within(t, root, p, "version"); !strings.Contains(out, " "+want+" ") {
			t.Errorf("%s is not of version %s: %s", p, want, out)
		}
	}
	if out := within(t, root, "/usr/bin/rsync", "--version"); !strings.Contains(out, "xattrs") {
		t.Errorf("rsync in the image: %s", out)
	}
	if st, err := os.Stat(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")); err != nil || st.Size() == 0 {
		t.Errorf("no certificates of public authorities: %v", err)
	}
}

// checkConfig checks the image's configuration against the Dockerfile, and tells whether it is the
// full variant's. An empty version is filled in.
func checkConfig(t *testing.T, img v1.Image, version *string) (full bool) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if c.User != "65532:65532" || len(c.Entrypoint) != 0 || !slices.Equal(c.Cmd, []string{"/vmfr-agent", "--help"}) {
		t.Errorf("user %q, entrypoint %q, command %q", c.User, c.Entrypoint, c.Cmd)
	}
	dockerfile, err := os.ReadFile(filepath.Join(moduleDir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{"USER " + c.User, `CMD ["/vmfr-agent", "--help"]`, "ENTRYPOINT []"} {
		if !strings.Contains(string(dockerfile), "\n"+said+"\n") {
			t.Errorf("the Dockerfile does not say %q", said)
		}
	}
	if *version == "" {
		*version = c.Labels[labels+"version"]
	}
	for name, want := range map[string]string{"title": "vmfr", "licenses": "Apache-2.0", "version": *version} {
		if got := c.Labels[labels+name]; got != want || got == "" {
			t.Errorf("the label %s is %q, not %q", name, got, want)
		}
	}
	for name, value := range c.Labels {
		ours, ok := strings.CutPrefix(name, labels)
		if said := string(dockerfile); ok && ours != "version" && !strings.Contains(said, name+"="+value) && !strings.Contains(said, name+`="`+value+`"`) {
			t.Errorf("the label %s=%s is not the Dockerfile's", name, value)
		}
	}
	return slices.Contains(c.Env, "LIBGUESTFS_PATH="+appliance)
}

// unpack lays the image's files out below root and checks each.
func unpack(t *testing.T, img v1.Image, root string) {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	out, in := io.Pipe()
	defer in.Close()
	var said bytes.Buffer
	cmd := exec.Command("tar", "-x", "-p", "--numeric-owner", "-C", root)
	cmd.Stdin, cmd.Stderr = out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(io.TeeReader(r, in)); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		checkFile(t, h)
	}
	_, _ = io.Copy(in, r)
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("tar: %v: %s", err, said.String())
	}
}

// strays are what no image needs. Each is a folder's contents, or a file.
var strays = []string{"var/lib/apt/lists/", "var/cache/apt/archives/", "var/log/apt/", "etc/ssh/ssh_host_", "etc/machine-id", "etc/hostname",
	"usr/share/locale/", "usr/share/man/", "usr/share/info/", "root/.cache/", "tmp/", "dev/", "proc/", "sys/", "run/"}

func checkFile(t *testing.T, h *tar.Header) {
	t.Helper()
	name := strings.TrimPrefix(strings.TrimPrefix(h.Name, "."), "/")
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink:
		if h.Mode&0o6000 != 0 {
			t.Errorf("%s has mode %o: whoever starts it gets more rights", name, h.Mode)
		}
		if h.Mode&0o002 != 0 {
			t.Errorf("everybody can write %s", name)
		}
		for _, s := range strays {
			if strings.HasPrefix(name, s) {
				t.Errorf("%s is no part of an image", name)
			}
		}
		if strings.HasPrefix(name, "usr/share/doc/") && filepath.Base(name) != "copyright" {
			t.Errorf("%s is documentation", name)
		}
		if h.Size > 0 && (name == "etc/resolv.conf" || name == "etc/hosts") {
			t.Errorf("%s is of the machine that built the image", name)
		}
		if strings.HasPrefix(name, "etc/apt/sources.list.d/") && filepath.Base(name) != "debian.sources" {
			t.Errorf("%s: packages of somebody else than Debian", name)
		}
	case tar.TypeDir:
		if h.Mode&0o002 != 0 && h.Mode&0o1000 == 0 {
			t.Errorf("everybody can delete in %s", name)
		}
	case tar.TypeSymlink:
	default:
		t.Errorf("%s is neither a file, a folder nor a link: %c", name, h.Typeflag)
	}
}

// within runs a program of the image as its user, with nothing but the image.
func within(t *testing.T, root, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v: %s", program, args, err, out)
	}
	return string(out)
}
