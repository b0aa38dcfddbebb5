package sshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBatch(t *testing.T) {
	src := t.TempDir()
	write(t, src, "etc/hosts", "127.0.0.1 localhost\n")
	write(t, src, "etc/deep/er/file", strings.Repeat("x", 100_000))
	if err := os.Symlink("/etc/hosts", filepath.Join(src, "abs")); err != nil {
		t.Fatal(err)
	}
	r := serve(t, hostTree(t, newHostFS(src)), nil)
	out := r.mustSFTP("ls -la", "ls -n /backups/b/d", "cd /backups/b/d/etc", "pwd", "get hosts h", "get -r deep", "get ../abs a", "df /backups/b/d", "-get nothing")
	t.Log(out)
	for name, want := range map[string]string{"h": "127.0.0.1 localhost\n", "a": "127.0.0.1 localhost\n", "deep/er/file": strings.Repeat("x", 100_000)} {
		got, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}
