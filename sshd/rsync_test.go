package sshd

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/audit"
	"vmfr/agent/engine"
	"vmfr/agent/jail"
	"vmfr/agent/tree"
	"vmfr/fusefs"
	"vmfr/test/fixture"
)

// TestMain is also the program that the jail starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// jailed starts a jail that reads tr.
func jailed(t testing.TB, tr *tree.Tree) *jail.Jail {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "rsync")
	j, err := jail.Start("rsync")
	if err != nil {
		t.Fatal(err)
	}
	s, err := fusefs.Serve(j.Device(), tr, fusefs.Options{AllowOther: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = j.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Wait(ctx); err != nil {
			t.Errorf("the jail's mount: %v", err)
		}
	})
	return j
}

// rsync runs the real client; the last of args is the destination, those that begin with a
// colon are sources.
func (r *rig) rsync(args ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	ssh := "ssh"
	for _, o := range r.options() {
		ssh += " '" + o + "'"
	}
	all := []string{"-e", ssh}
	for _, a := range args {
		if strings.HasPrefix(a, ":") {
			a = "oadp@" + r.host + a
		}
		all = append(all, a)
	}
	return r.run("", "rsync", all...)
}

func (r *rig) mustRsync(args ...string) string {
	r.t.Helper()
	out, errs, status := r.rsync(args...)
	if status != 0 {
		r.t.Fatalf("rsync %q: status %d\n%s%s", args, status, out, errs)
	}
	return out
}

// system is a tree with all that rsync -aHAXS keeps, the xattrs included.
func system(t testing.TB) string {
	t.Helper()
	dir := guest(t)
	for n, ids := range map[string][2]int{"qemu": {107, 107}, "far": {3000000000, 4294967294}} {
		write(t, dir, n, n)
		if err := os.Lchown(filepath.Join(dir, n), ids[0], ids[1]); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "capable", "program")
	fixture.Run(t, "setcap", "cap_net_raw+ep", filepath.Join(dir, "capable"))
	fixture.Run(t, "setfattr", "-n", "user.note", "-v", "kept", filepath.Join(dir, "qemu"))
	fixture.Run(t, "setfattr", "-n", "trusted.overlay.opaque", "-v", "y", filepath.Join(dir, "qemu"))
	fixture.Run(t, "setfacl", "-m", "u:3000000001:rx,g:108:r", filepath.Join(dir, "qemu"))
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "abslink")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../../etc/shadow", filepath.Join(dir, "outlink")); err != nil {
		t.Fatal(err)
	}
	backdate(t, dir)
	return dir
}

// backdate gives every object at and below root a time of its own in the past, with nanoseconds.
// rsync takes a time of the same second for equal: an object that a copy made within the
// fixture's own second would keep the time of its making.
func backdate(t testing.TB, root string) {
	t.Helper()
	when := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		when = when.Add(time.Hour + time.Nanosecond)
		ts, err := unix.TimeToTimespec(when)
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// describe is all that rsync can carry of the objects below root, by path.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	lines := walk(t, root, below(root))
	for _, p := range slices.Sorted(maps.Keys(lines)) {
		if p == "lost+found" {
			continue
		}
		line := lines[p]
		full := filepath.Join(root, p)
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" ns %d links %d dev %d", st.Mtim.Nsec, st.Nlink, st.Rdev)
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(full, list)
		if err != nil {
			t.Fatal(err)
		}
		names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
		sort.Strings(names)
		for _, x := range names {
			if x == "" || strings.HasPrefix(x, "trusted.") || x == "security.selinux" {
				continue
			}
			v := make([]byte, 4096)
			k, err := unix.Lgetxattr(full, x, v)
			if err != nil {
				t.Fatalf("%s of %s: %v", x, p, err)
			}
			line += fmt.Sprintf(" %s=%x", x, v[:k])
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			line, _, _ = strings.Cut(line, " links ")
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
			if other, ok := first[st.Ino]; ok {
				line += " same as " + other
			} else {
				first[st.Ino] = p
			}
		}
		out[p] = line
	}
	return out
}

func compare(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	for p, w := range want {
		if g := got[p]; g != w {
			t.Errorf("%s: %q:\n want %s\n got  %s", what, p, w, g)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q was never there", what, p)
		}
	}
}

// TestRsync copies an ext4 image with every option that only reads and compares it with the
// kernel's view: owners, modes, times, links, ACLs, capabilities, holes.
func TestRsync(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "rsync", "mke2fs", "losetup", "setcap", "setfattr", "setfacl")
	img := fixture.Ext4(t, t.TempDir(), 64<<20)
	src := system(t)
	fixture.Run(t, "rm", "-f", img)
	img = emptyExt4(t, src)
	kernel := fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	tr := newTree(t, engine.Native(), fixture.OpenRaw(t, img))
	var records bytes.Buffer
	log := audit.New(&records)
	r := serve(t, tr, func(c *Config) { c.Rsync = jailed(t, tr); c.Audit = log })
	want := describe(t, kernel)
	if len(want) < 300 || !strings.Contains(want["capable"], "security.capability") || !strings.Contains(want["far"], "3000000000:4294967294") || !strings.Contains(want["qemu"], "system.posix_acl_access") {
		t.Fatalf("the fixture lacks something: %d objects, %s", len(want), want["qemu"])
	}
	full := []string{"-aHAXS", "--numeric-ids"}
	const source = ":/backups/b/d/"
	for i, o := range [][]string{
		nil, {"-z", "--compress-choice=zstd"}, {"--checksum", "-z"}, {"-s"}, {"--secluded-args", "--bwlimit=200m"}, {"--inplace", "--no-S", "--whole-file"}, {"--info=progress2", "--partial"},
		{"--delete", "--fuzzy", "--no-i-r"},
	} {
		dst := filepath.Join(r.dir, fmt.Sprint("dst", i)) + "/"
		if i > 0 {
			o = append(o, "--link-dest=../none")
		}
		r.mustRsync(append(append(full, o...), "--exclude=/lost+found", source, dst)...)
		compare(t, fmt.Sprint(o), want, describe(t, dst))
		if err := os.RemoveAll(dst); err != nil && i > 0 {
			t.Fatal(err)
		}
	}
	// Sparse stays sparse.
	dst := filepath.Join(r.dir, "again") + "/"
	r.mustRsync(append(full, "--exclude=/lost+found", source, dst)...)
	var st unix.Stat_t
	if err := unix.Stat(dst+"sparse", &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("sparse: %d blocks, %v", st.Blocks, err)
	}
	// A second run has nothing to do, and what was damaged on our side is mended.
	if out := r.mustRsync(append(full, "-i", "--exclude=/lost+found", source, dst)...); strings.TrimSpace(out) != "" {
		t.Errorf("a second run changes: %s", out)
	}
	if err := os.Truncate(dst+"big", 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, o := range []string{"--append", "--append-verify", "--partial"} {
		r.mustRsync("-aHAX", "--numeric-ids", o, "--exclude=/lost+found", source, dst) // the program itself fails with -S and --append
		if err := os.Truncate(dst+"big", 2<<20); err != nil {
			t.Fatal(err)
		}
	}
	r.mustRsync(append(full, "--checksum", "--exclude=/lost+found", source, dst)...)
	compare(t, "mended", want, describe(t, dst))

	t.Run("selection", func(t *testing.T) { rsyncSelection(t, r) })
	t.Run("refused", func(t *testing.T) { rsyncRefused(t, r) })
	r.stop()
	_ = r.wait()
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(records.String(), `"event":"run"`); n < 12 || !strings.Contains(records.String(), `"args":["rsync","--server","--sender"`) {
		t.Errorf("%d runs are recorded\n%.2000s", n, records.String())
	}
}

// emptyExt4 is an ext4 image that the kernel filled from src, since mke2fs drops nanoseconds.
func emptyExt4(t testing.TB, src string) string {
	t.Helper()
	img := fixture.Ext4(t, t.TempDir(), 64<<20)
	mnt := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	fixture.Run(t, "rsync", "-aHAXS", "--numeric-ids", src+"/", mnt+"/")
	fixture.Unmount(t, mnt)
	return img
}

func rsyncSelection(t *testing.T, r *rig) {
	write(t, r.dir, "list", "names\nmany/001\n")
	for _, c := range []struct {
		args []string
		want []string // files below the destination
	}{
		{[]string{"-a", ":/backups/b/d/owned", "x/"}, []string{"owned"}},
		{[]string{"-aR", ":/backups/b/./d/qemu", "x/"}, []string{"d/qemu"}},
		{[]string{"-a", "--include=qemu", "--exclude=*", ":/backups/b/d/", "x/"}, []string{"qemu"}},
		{[]string{"-a", "-f", "+ /far", "-f", "- *", ":/backups/b/d/", "x/"}, []string{"far"}},
		{[]string{"-a", ":/backups/b/d/qe*", ":/backups/b/d/f?r", "x/"}, []string{"far", "qemu"}},
		{[]string{"-as", ":/backups/b/d/qe*", "x/"}, []string{"qemu"}},
		{[]string{"-a", "--files-from=list", "--exclude=*[0-46-9]", "--exclude=n*", "--include=x", ":/backups/b/d", "x/"}, nil},
		{[]string{"-a", ":/README.txt", ":METADATA.json", "x/"}, []string{"METADATA.json", "README.txt"}},
		{[]string{"-a", "--max-size=10", ":/backups/b/d/names/", "x/"}, nil},
		{[]string{"-rL", ":/backups/b/d/abslink", "x/"}, nil}, // a guest's absolute link leads nowhere in the jail
	} {
		_ = os.RemoveAll(filepath.Join(r.dir, "x"))
		out, errs, status := r.rsync(c.args...)
		if status != 0 && c.want != nil {
			t.Errorf("%q: %s%s", c.args, out, errs)
			continue
		}
		var got []string
		_ = filepath.WalkDir(filepath.Join(r.dir, "x"), func(p string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				rel, _ := filepath.Rel(filepath.Join(r.dir, "x"), p)
				got = append(got, rel)
			}
			return nil
		})
		if !reflect.DeepEqual(got, c.want) && c.want != nil {
			t.Errorf("%q: %q, want %q", c.args, got, c.want)
		}
		if c.want == nil && strings.Contains(strings.Join(got, " "), "shadow") {
			t.Errorf("%q: %q", c.args, got)
		}
	}
	if out := r.mustRsync(":/"); !strings.Contains(out, "backups") || !strings.Contains(out, "README.txt") || strings.Contains(out, "vmfr-") {
		t.Errorf("the root:\n%s", out)
	}
	r.mustRsync("-a", "--files-from=list", ":/backups/b/d", "y/")
	for _, n := range []string{"y/names", "y/many/001"} {
		if _, err := os.Stat(filepath.Join(r.dir, n)); err != nil {
			t.Error(err)
		}
	}
	// The links of the guest arrive as they are.
	r.mustRsync("-a", ":/backups/b/d/abslink", ":/backups/b/d/outlink", "y/")
	if l, _ := os.Readlink(filepath.Join(r.dir, "y/abslink")); l != "/etc/shadow" {
		t.Errorf("absolute: %q", l)
	}
}

func rsyncRefused(t *testing.T, r *rig) {
	for want, args := range map[string][]string{
		"the option --remove-source-files is not allowed: backups are read-only": {"-a", "--remove-source-files", ":/backups/b/d/owned", "x/"},
		"the option --log-file is not allowed":                                   {"-a", "-M--log-file=/tmp/x", ":/backups/b/d/owned", "x/"},
		"the option --iconv is not allowed":                                      {"-a", "--iconv=utf8,latin1", ":/backups/b/d/owned", "x/"},
		"the option --files-from is not allowed":                                 {"-a", "--files-from=:/backups/b/d/owned", ":/backups/", "x/"},
		"only reading is possible":                                               {"-a", r.key(), ":/backups/b/d/"},
		"sftp, scp and rsync only":                                               {"-a", "--rsync-path=/tmp/rsync", ":/backups/b/d/owned", "x/"},
		"a shell; nothing":                                                       {"-a", "--rsync-path=rsync --daemon;", ":/backups/b/d/owned", "x/"},
		`"/etc/passwd" is not there`:                                             {"-a", ":/etc/passwd", "x/"},
		`is not there`:                                                           {"-a", ":/backups/../../etc/passwd", "x/"},
		"whole disks under /disks":                                               {"-as", ":/disks/b/d.raw", "x/"},
		"the option --daemon is not allowed":                                     {"-a", "-M--daemon", ":/backups/b/d/owned", "x/"},
	} {
		out, errs, status := r.rsync(args...)
		if want == "a shell; nothing" {
			want = "rsync:"
		}
		if status == 0 || !strings.Contains(errs, want) || out != "" && !strings.Contains(out, "rsync") {
			t.Errorf("%q: status %d, %q%q, want %q", args, status, out, errs, want)
		}
	}
}

// TestRsyncEnds: nothing is left of a transfer whose client is gone.
func TestRsyncEnds(t *testing.T) {
	fixture.Need(t, "rsync", "mke2fs")
	src := t.TempDir()
	write(t, src, "big", strings.Repeat("0123456789abcdef", 1<<20))
	tr := newTree(t, engine.Native(), fixture.OpenRaw(t, fixture.Ext4(t, src, 64<<20)))
	r := serve(t, tr, func(c *Config) { c.Rsync = jailed(t, tr) })
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("rsync --server --sender -logDtpre.iLsfxCIvu " + runMark() + " . /backups/b/d/"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil { // the greeting: it runs and waits
		t.Fatal(err)
	}
	if n := jailedProcesses(t); n != 1 {
		t.Errorf("%d run", n)
	}
	c.Close()
	for end := time.Now().Add(10 * time.Second); jailedProcesses(t) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("rsync goes on without its client")
		}
	}
}

// runMark tells the runs of this process from those of other tests.
func runMark() string { return fmt.Sprintf("--checksum-seed=%d", 100_000_000+os.Getpid()) } // none begins with another

// jailedProcesses counts the running senders with runMark.
func jailedProcesses(t testing.TB) (n int) {
	out, _ := exec.Command("ps", "-eo", "args").Output()
	for _, l := range strings.Split(string(out), "\n") {
		if strings.Contains(l, runMark()) && strings.Contains(l, ".vmfr-") {
			n++
		}
	}
	return n
}

// TestRsyncNotOffered: without a jail nothing is run.
func TestRsyncNotOffered(t *testing.T) {
	fixture.Need(t, "rsync")
	r := serve(t, hostTree(t, newHostFS(sample(t))), nil)
	if _, errs, status := r.rsync("-a", ":/backups/", "x/"); status == 0 || !strings.Contains(errs, "rsync is not offered by this server; use sftp") {
		t.Errorf("%d %q", status, errs)
	}
}
