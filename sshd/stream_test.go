package sshd

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/test/fixture"
)

// ntfsDisk is an NTFS volume with named streams, as ntfs-3g writes them.
func ntfsDisk(t *testing.T, long string) string {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "mkntfs", "ntfs-3g")
	img, mnt := filepath.Join(t.TempDir(), "ntfs.raw"), t.TempDir()
	fixture.Sparse(t, img, 16<<20)
	fixture.Run(t, "mkntfs", "-F", "-q", "-Q", "-p", "0", "-H", "0", "-S", "0", img)
	fixture.Run(t, "ntfs-3g", "-o", "streams_interface=xattr", img, mnt)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", mnt).Run() })
	write(t, mnt, "users/report.doc", "the document")
	for _, x := range []struct{ file, stream, content string }{
		{"users/report.doc", "Zone.Identifier", "[ZoneTransfer]\r\nZoneId=3\r\n"},
		{"users/report.doc", "long", long},
		{"users/report.doc", "ünï cödé", "u"},
		{"users", "of a folder", "f"},
	} {
		if err := unix.Setxattr(filepath.Join(mnt, x.file), "user."+x.stream, []byte(x.content), 0); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "umount", mnt)
	// ntfs-3g ends after umount; until then it holds a lock on the image.
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestStreams reads alternate data streams with OpenSSH's clients and with Go's.
func TestStreams(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 3000)
	r := serve(t, newTree(t, engine.Native(), fixture.OpenRaw(t, ntfsDisk(t, long))), nil)
	const doc = "/backups/b/d/users/report.doc"
	out := r.mustSFTP("ls /backups/b/d/users", `ls -ln "`+doc+`:Zone.Identifier"`, `get -p "`+doc+`:Zone.Identifier" zone`,
		`get "`+doc+`:long" long`, `get "`+doc+`:ünï cödé" u`, `get "/backups/b/d/users:of a folder" f`, `get "`+doc+`" doc`)
	for name, want := range map[string]string{"zone": "[ZoneTransfer]\r\nZoneId=3\r\n", "long": long, "u": "u", "f": "f", "doc": "the document"} {
		if got, err := os.ReadFile(filepath.Join(r.dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %.100q, %v", name, got, err)
		}
	}
	if listing, _, _ := strings.Cut(out, "sftp> ls -ln"); strings.Contains(listing, "report.doc:") {
		t.Errorf("a stream is listed as a file:\n%s", out)
	}
	for _, missing := range []string{doc + ":none", doc + ":", doc + "x:long", "/backups/b/d/users/:long", "/backups/b/d/none:long"} {
		if _, errs, status := r.sftp(`get "` + missing + `" x`); status == 0 || !strings.Contains(errs, "not found") {
			t.Errorf("%s: status %d, %s", missing, status, errs)
		}
	}
	c := r.client()
	for path, size := range map[string]int64{doc + ":long": int64(len(long)), "/backups/b/d/users:of a folder": 1} {
		fi, err := c.Stat(path)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() != size {
			t.Errorf("stat %s: %v, %v", path, fi, err)
		}
		if fi, err = c.Lstat(path); err != nil || fi.Size() != size {
			t.Errorf("lstat %s: %v, %v", path, fi, err)
		}
	}
	if _, err := c.ReadDir("/backups/b/d/users:of a folder"); err == nil {
		t.Error("a stream of a folder lists")
	}
	if _, err := c.Stat(doc + ":none"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("no such stream: %v", err)
	}
	if _, err := c.OpenFile(doc+":new", os.O_WRONLY|os.O_CREATE); !errors.Is(err, iofs.ErrPermission) {
		t.Errorf("a new stream: %v", err)
	}
	if _, errs, status := r.run("", "scp", append(r.options("-O", "-p"), "oadp@"+r.host+":"+doc+":Zone.Identifier", "old")...); status != 0 {
		t.Errorf("scp -O: %d, %s", status, errs)
	}
	if got, err := os.ReadFile(filepath.Join(r.dir, "old")); err != nil || string(got) != "[ZoneTransfer]\r\nZoneId=3\r\n" {
		t.Errorf("scp -O: %q, %v", got, err)
	}
}

// TestPlainNameFirst: a colon in a file's own name is not a stream's.
func TestPlainNameFirst(t *testing.T) {
	src := t.TempDir()
	write(t, src, "a", "file")
	write(t, src, "a:b", "colon")
	s := newServer(hostTree(t, newHostFS(src)), complete(t))
	o, err := s.find(context.Background(), "/backups/b/d/a:b", true)
	if err != nil || o.stream != "" {
		t.Fatalf("%+v, %v", o, err)
	}
	if f, err := s.open(o); err != nil || f.Size() != 5 {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := s.find(context.Background(), "/backups/b/d/a:c", true); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
