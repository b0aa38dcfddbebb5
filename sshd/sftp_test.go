package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// sample is a small guest's file system on this machine.
func sample(t testing.TB) string {
	dir := t.TempDir()
	write(t, dir, "etc/hosts", "127.0.0.1 localhost\n")
	write(t, dir, "etc/deep/er/file", strings.Repeat("0123456789", 30_000))
	write(t, dir, "empty", "")
	for name, target := range map[string]string{
		"abs": "/etc/hosts", "rel": "etc/hosts", "folder": "/etc/deep", "loop": "loop", "ping": "pong", "pong": "ping",
		"up": "../../../../../../../../etc/hosts", "broken": "/nothing/there", "etc/out": "../../../../README.txt",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenSSHBatch(t *testing.T) {
	src := sample(t)
	if err := os.Chtimes(filepath.Join(src, "etc/hosts"), time.Unix(1_000_000_007, 0), time.Unix(1_100_000_009, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(src, "etc/hosts"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(src, "etc/hosts"), 1234, 70000); err != nil {
		t.Skip("needs root: ", err)
	}
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	big := strings.Repeat("0123456789", 30_000)
	write(t, r.dir, "part", big[:123_456])
	out := r.mustSFTP("ls -la", "ls -ln /backups/b/d/etc", "cd /backups/b/d/etc", "pwd", "cd deep/..", "pwd",
		"get -p hosts h", "get -r deep", "get ../abs a", "get ../rel b", "get ../up c", "get ../folder/er/file d",
		"reget deep/er/file part", "df /backups/b/d", "ls /restores/2026-01-02/b/vm/d/empty", "get /README.txt")
	for name, want := range map[string]string{
		"h": "127.0.0.1 localhost\n", "a": "127.0.0.1 localhost\n", "b": "127.0.0.1 localhost\n", "c": "127.0.0.1 localhost\n",
		"deep/er/file": big, "d": big, "part": big,
	} {
		got, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, want := range []string{
		"-r--r--r--    1 0        0       ", "README.txt", "Remote working directory: /backups/b/d/etc\n",
		"-rw-r-----    ? 1234     70000          20 Nov  9  2004 /backups/b/d/etc/hosts", "50%", "/restores/2026-01-02/b/vm/d/empty",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(r.dir, "h"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mtim.Sec != 1_100_000_009 || st.Mode&0o7777 != 0o640 {
		t.Errorf("get -p: mtime %d, mode %o", st.Mtim.Sec, st.Mode)
	}
}

func TestWritesAreRefused(t *testing.T) {
	src := sample(t)
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	write(t, r.dir, "local", "x")
	for _, cmd := range []string{
		"put local /backups/b/d/new", "put local /backups/b/d/etc/hosts", "rm /backups/b/d/etc/hosts", "mkdir /backups/b/d/x", "rmdir /backups/b/d/etc",
		"rename /backups/b/d/empty /backups/b/d/full", "ln /backups/b/d/empty /backups/b/d/e2", "ln -s empty /backups/b/d/e2",
		"chmod 777 /backups/b/d/empty", "chown 1 /backups/b/d/empty",
	} {
		out, errs, status := r.sftp(cmd)
		if status == 0 || !strings.Contains(strings.ToLower(out+errs), "permission denied") {
			t.Errorf("%s: status %d\n%s%s", cmd, status, out, errs)
		}
	}
	c := r.client()
	for name, do := range map[string]func() error{
		"create":   func() error { _, err := c.Create("/backups/b/d/n"); return err },
		"rdwr":     func() error { _, err := c.OpenFile("/backups/b/d/empty", os.O_RDWR); return err },
		"append":   func() error { _, err := c.OpenFile("/backups/b/d/empty", os.O_APPEND|os.O_WRONLY); return err },
		"truncate": func() error { return c.Truncate("/backups/b/d/etc/hosts", 0) },
		"chtimes":  func() error { return c.Chtimes("/README.txt", time.Now(), time.Now()) },
		"posix":    func() error { return c.PosixRename("/README.txt", "/x") },
		"link":     func() error { return c.Link("/README.txt", "/x") },
		"symlink":  func() error { return c.Symlink("/README.txt", "/x") },
		"fsetstat": func() error {
			f, err := c.Open("/README.txt")
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Chmod(0o777)
		},
	} {
		err := do()
		if !errors.Is(err, os.ErrPermission) && !strings.Contains(fmt.Sprint(err), "read-only") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := r.counters.Snapshot().Ops["refused"]; n < 15 {
		t.Errorf("refused counts %d", n)
	}
	if _, err := os.Stat(filepath.Join(src, "new")); err == nil {
		t.Error("a file was written")
	}
}

func TestAttributes(t *testing.T) {
	src := sample(t)
	old := filepath.Join(src, "empty")
	if err := os.Chtimes(old, time.Unix(-5, 0), time.Unix(1<<33, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(src, "etc/hosts"), time.Unix(1_000_000_007, 0), time.Unix(1_100_000_009, 0)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(src, "fifo"), 0o4751); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(src, "fifo"), 0o751|os.ModeSetuid|os.ModeSticky|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	c := serve(t, hostTree(t, newHostFS(src)), nil).client()
	stat := func(fi os.FileInfo, err error) *sftp.FileStat {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*sftp.FileStat)
	}
	if st := stat(c.Stat("/backups/b/d/etc/hosts")); st.Atime != 1_000_000_007 || st.Mtime != 1_100_000_009 || st.Size != 20 || len(st.Extended) != 0 {
		t.Errorf("hosts: %+v", st)
	}
	if st := stat(c.Stat("/backups/b/d/empty")); st.Atime != 0 || st.Mtime != 1<<32-1 {
		t.Errorf("times out of range: %+v", st)
	}
	if st := stat(c.Stat("/backups/b/d/fifo")); st.Mode != fsys.ModeFIFO|0o7751 {
		t.Errorf("fifo: %o", st.Mode)
	}
	if st := stat(c.Lstat("/backups/b/d/abs")); st.Mode&fsys.ModeFmt != fsys.ModeSymlink || st.Size != 10 {
		t.Errorf("lstat follows: %+v", st)
	}
	if st := stat(c.Stat("/backups/b/d/abs")); st.Size != 20 {
		t.Errorf("stat does not follow: %+v", st)
	}
	list, err := c.ReadDir("/backups/b/d/etc")
	if err != nil {
		t.Fatal(err)
	}
	for _, fi := range list {
		if st := fi.Sys().(*sftp.FileStat); fi.Name() == "hosts" && (st.Atime != 1_000_000_007 || st.Mtime != 1_100_000_009) {
			t.Errorf("readdir: %+v", st)
		}
	}
	if _, err := c.Open("/backups/b/d/fifo"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("open of a FIFO: %v", err)
	}
	vfs, err := c.StatVFS("/backups/b/d")
	if err != nil || vfs.Bsize != 4096 || vfs.Blocks != 1<<18 || vfs.Bfree != 1<<17 || vfs.Files != 1000 || vfs.Flag&1 != 1 || vfs.Namemax != 255 {
		t.Errorf("statvfs: %+v, %v", vfs, err)
	}
}

func TestLinks(t *testing.T) {
	c := serve(t, hostTree(t, newHostFS(sample(t))), nil).client()
	for link, want := range map[string]string{"abs": "/etc/hosts", "up": "../../../../../../../../etc/hosts", "loop": "loop"} {
		if got, err := c.ReadLink("/backups/b/d/" + link); err != nil || got != want {
			t.Errorf("readlink %s: %q, %v", link, got, err)
		}
	}
	for path, want := range map[string]string{
		"/backups/b/d/abs": "127.0.0.1 localhost\n", "/backups/b/d/up": "127.0.0.1 localhost\n", "/backups/b/d/folder/../etc/hosts": "127.0.0.1 localhost\n",
		"/../../../../backups/b/d/rel": "127.0.0.1 localhost\n", "backups/b/d/./rel": "127.0.0.1 localhost\n",
	} {
		f, err := c.Open(path)
		if got := readAll(t, f, err); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	for _, path := range []string{"/backups/b/d/loop", "/backups/b/d/ping", "/backups/b/d/broken", "/backups/b/d/etc/out", "/etc/passwd", "/../../etc/passwd"} {
		if _, err := c.Open(path); err == nil {
			t.Errorf("%s opens", path)
		}
	}
	if _, err := c.Open("/backups/b/d/loop"); !strings.Contains(fmt.Sprint(err), tree.KindLoop.Advice()) {
		t.Errorf("the advice is missing: %v", err)
	}
	if p, err := c.RealPath("/backups/../backups/./b/"); err != nil || p != "/backups/b" {
		t.Errorf("realpath: %q, %v", p, err)
	}
}

func TestHostileNames(t *testing.T) {
	src := t.TempDir()
	names := []string{"new\nline", "bad\xff\xfeutf8", strings.Repeat("n", 255), "\x1b[2J", " ", "-rf", "a\tb", "quote\"'", "ü", "\\"}
	for _, n := range names {
		write(t, src, n, "content of "+n)
	}
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	c := r.client()
	list, err := c.ReadDir("/backups/b/d")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, fi := range list {
		seen[fi.Name()] = true
	}
	for _, n := range names {
		f, err := c.Open("/backups/b/d/" + n)
		if got := readAll(t, f, err); got != "content of "+n || !seen[n] {
			t.Errorf("%q: listed %v, content %q", n, seen[n], got)
		}
	}
	if _, err := c.Stat("/backups/b/d/nul\x00byte"); err == nil {
		t.Error("a name with NUL exists")
	}
	if _, err := c.Stat("/" + strings.Repeat("x/", 3000)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a path of 6000 bytes: %v", err)
	}
	out := r.mustSFTP("ls -l /backups/b/d", "get -r /backups/b/d all")
	if strings.Contains(out, "\x1b") {
		t.Error("the client shows escape sequences")
	}
	for _, n := range names {
		if b, err := os.ReadFile(filepath.Join(r.dir, "all", n)); err != nil || string(b) != "content of "+n {
			t.Errorf("get -r: %q: %v", n, err)
		}
	}
}

// TestErrors checks what a client is told about each kind of error.
func TestErrors(t *testing.T) {
	src := sample(t)
	fs := newHostFS(src)
	var fail error
	fs.fail = func(i fsys.Ino) error {
		if i == 1 {
			return nil
		}
		return fail
	}
	c := serve(t, hostTree(t, fs), nil).client()
	for kind, err := range map[tree.Kind]error{
		tree.KindCorrupt: fsys.Corrupt("host", "inode", 7, -1, "made up"), tree.KindNoKey: fsys.ErrNoKey, tree.KindUnsupported: fsys.ErrUnsupported,
		tree.KindIO: errors.New("disk on fire"), tree.KindNotFound: os.ErrNotExist,
	} {
		fail = err
		_, got := c.Lstat("/backups/b/d/empty")
		var st *sftp.StatusError
		if kind == tree.KindNotFound || kind == tree.KindNoKey {
			if want := map[tree.Kind]error{tree.KindNotFound: os.ErrNotExist, tree.KindNoKey: os.ErrPermission}[kind]; !errors.Is(got, want) {
				t.Errorf("%v: %v", kind, got)
			}
			continue
		}
		if !errors.As(got, &st) || st.Code != kind.SFTP() || !strings.Contains(got.Error(), kind.Advice()) {
			t.Errorf("%v: %v", kind, got)
		}
	}
	// A directory is listed although its entries cannot be described.
	fail = fsys.ErrCorrupt
	if list, err := c.ReadDir("/backups/b/d"); err != nil || len(list) < 10 {
		t.Errorf("a damaged entry hides %d others: %v", len(list), err)
	}
}

func TestConcurrentReads(t *testing.T) {
	src := sample(t)
	want := make([]byte, 3<<20+123)
	for i := range want {
		want[i] = byte(i >> 7 * 31)
	}
	write(t, src, "big", string(want))
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	c := r.client(sftp.MaxPacketUnchecked(maxRead), sftp.MaxConcurrentRequestsPerFile(64))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			f, err := c.Open("/backups/b/d/big")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			var b strings.Builder
			if _, err := f.WriteTo(&b); err != nil || b.String() != string(want) {
				t.Errorf("%d bytes, %v", b.Len(), err)
			}
			p := make([]byte, 300_000)
			if n, err := f.ReadAt(p, 1_000_001); err != nil || string(p[:n]) != string(want[1_000_001:1_300_001]) {
				t.Errorf("ReadAt: %d, %v", n, err)
			}
			if n, err := f.ReadAt(p, int64(len(want))-5); n != 5 || err != io.EOF {
				t.Errorf("ReadAt at the end: %d, %v", n, err)
			}
		})
	}
	wg.Wait()
	s := r.counters.Snapshot()
	if s.OpenFiles != 0 || s.Bytes < 4*uint64(len(want)) || s.Connections != 1 {
		t.Errorf("counters: %+v", s)
	}
}

func TestHandleLimit(t *testing.T) {
	c := serve(t, hostTree(t, newHostFS(sample(t))), nil).client()
	for i := range maxHandles {
		if _, err := c.Open("/README.txt"); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	if _, err := c.Open("/README.txt"); err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("one more: %v", err)
	}
	if _, err := c.Stat("/README.txt"); err != nil {
		t.Errorf("the session is broken: %v", err)
	}
}
