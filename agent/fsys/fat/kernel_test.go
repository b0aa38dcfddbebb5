package fat

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestLikeKernel lets the vfat driver of a libguestfs appliance write names that mtools cannot,
// and compares its view of that image, and of one that mtools made, with ours.
func TestLikeKernel(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	fixture.Need(t, "guestfish")
	written, copied := mkfs(t, 64*mib, "-F", "32", "-s", "128"), mkfs(t, 16*mib, "-F", "16")
	populate(t, copied, 50)
	mtool(t, copied, "mattrib", "+r", "+s", "z:/UPPER.TXT")

	var in strings.Builder
	fmt.Fprintf(&in, "add-drive %s format:raw\nadd-drive %s readonly:true format:raw\nrun\n", written, copied)
	in.WriteString("mount-options utf8=1,umask=022 /dev/sda /\nmkdir /d\nmkdir \"/d/Sub 😀\"\nfallocate64 /large 3000000\n")
	for i, name := range []string{"emoji 😀😀.txt", "clef 𝄞", strings.Repeat("😀", 127) + "x", strings.Repeat("日", 255), "d/UPPER", "d/lower.txt", "d/Mi.Xed", "d/~", "é.É"} {
		fmt.Fprintf(&in, "write \"/%s\" \"content %d\"\nutimens \"/%s\" %d 0 %d 0\n", name, i, name, 1000000000, 1234567890+86400*i)
	}
	in.WriteString(`debug sh "mkdir /sysroot/many && cd /sysroot/many && seq -f file-number-%g.text 1 1200 | xargs touch"` + "\n")
	// The daemon's shell takes the line apart again, so it must do without quotes.
	list := `debug sh "cd /sysroot && find . -printf %m//%n//%s//%T@//%C@//%y// -print && find . -type f -exec sha256sum {} +"` + "\n"
	in.WriteString(list + "umount /\nmount-options ro,utf8=1,umask=022 /dev/sdb /\necho ===\n" + list)
	cmd := exec.Command("guestfish")
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg", "TMPDIR="+t.TempDir(), "LIBGUESTFS_CACHEDIR=/var/tmp", "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(in.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("guestfish: %v\n%s\n%s", err, out, stderr.String())
	}
	first, second, _ := strings.Cut(string(out), "===\n")
	for i, part := range []string{first, second} {
		img := []string{written, copied}[i]
		t.Run([]string{"written", "copied"}[i], func(t *testing.T) {
			check(t, img)
			m := kernelView(t, part)
			if len(m) < 12 {
				t.Fatalf("the kernel shows %d objects:\n%s", len(m), part)
			}
			f := openImage(t, img)
			fsystest.Run(t, f, m)
			// Negative control: the comparison must notice a file that is not there.
			m["many/no such file"] = m["."]
			if got, err := fsystest.WalkFS(f); err != nil || len(fsystest.Diff(m, got)) != 1 {
				t.Errorf("an additional file was not noticed, or more: %v", err)
			}
		})
	}
}

// kernelView parses what find and sha256sum printed.
func kernelView(t *testing.T, out string) fsystest.Manifest {
	t.Helper()
	m := fsystest.Manifest{}
	seconds := func(s string) int64 {
		whole, _, _ := strings.Cut(s, ".")
		n, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n * 1e9
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		f := strings.SplitN(line, "//", 7)
		if len(f) != 7 {
			sum, path, _ := strings.Cut(line, "  ./")
			e := m[path]
			e.SHA256 = sum
			m[path] = e
			continue
		}
		mode, err1 := strconv.ParseUint(f[0], 8, 32)
		links, err2 := strconv.ParseUint(f[1], 10, 32)
		size, err3 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatalf("find printed %q", line)
		}
		e := fsystest.Entry{Path: strings.TrimPrefix(f[6], "./"), Mode: uint32(mode) | fsys.ModeRegular, Nlink: uint32(links), Size: size, Blocks: -1, Mtime: seconds(f[3]), Ctime: seconds(f[4])}
		if f[5] == "d" {
			e.Mode = uint32(mode) | fsys.ModeDir
		}
		m[e.Path] = e
	}
	return m
}
