package files

import (
	"encoding/xml"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

// multistatus is what a client takes from a PROPFIND.
type multistatus struct {
	Responses []struct {
		Href string    `xml:"href"`
		Name string    `xml:"propstat>prop>displayname"`
		Size int64     `xml:"propstat>prop>getcontentlength"`
		ETag string    `xml:"propstat>prop>getetag"`
		Dir  *struct{} `xml:"propstat>prop>resourcetype>collection"`
	} `xml:"response"`
}

func TestPropfind(t *testing.T) {
	img, want, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	c := s.client(true)
	get := func(path string) map[string]int {
		a := s.do(c, "PROPFIND", "/dav"+path, "Depth: 1")
		var m multistatus
		if err := xml.Unmarshal(a.body, &m); err != nil || a.status != 207 || a.header.Get("Cache-Control") != noStore {
			t.Fatalf("%s: %d %v %.300s", path, a.status, err, a.body)
		}
		out := map[string]int{}
		for i, r := range m.Responses {
			u, err := url.Parse(r.Href)
			if err != nil {
				t.Fatalf("%q: %v", r.Href, err)
			}
			out[strings.TrimSuffix(strings.TrimPrefix(u.Path, "/dav"+disk+"/"), "/")] = i + 1
			if r.Dir == nil && r.ETag == "" {
				t.Errorf("%q has no ETag", r.Href)
			}
		}
		return out
	}
	odd := get(disk + "/odd/")
	for path, w := range want {
		if filepath.Dir(path) == "odd" && w.Mode&fsys.ModeFmt == fsys.ModeRegular && odd[path] == 0 {
			t.Errorf("%q is not listed", path)
		}
	}
	root := get(disk)
	for name, shown := range map[string]bool{"etc": true, "abs": true, "absdir": true, "dangling": false, "loop1": false, "escape": false} {
		if (root[name] != 0) != shown {
			t.Errorf("%s is listed: %v", name, !shown)
		}
	}
	for _, depth := range []string{"", "infinity", "2"} {
		if a := s.do(c, "PROPFIND", "/dav/", "Depth: "+depth); a.status != 403 || !strings.Contains(string(a.body), "propfind-finite-depth") {
			t.Errorf("depth %q: %d %s", depth, a.status, a.body)
		}
	}
	if a := s.do(c, "OPTIONS", "/dav/"); a.header.Get("DAV") != "1" || !strings.Contains(a.header.Get("Allow"), "PROPFIND") || strings.Contains(a.header.Get("Allow"), "PUT") {
		t.Errorf("OPTIONS: %v", a.header)
	}
	for _, m := range []string{"PUT", "DELETE", "MKCOL", "MOVE", "COPY", "LOCK", "UNLOCK", "PROPPATCH", "POST"} {
		s.do(c, m, "/dav"+disk+"/etc/hosts", "Destination: "+s.url("/dav/x")).problem(t, 405, "method_not_allowed")
	}
	s.do(c, "PROPFIND", "/files/", "Depth: 1").problem(t, 405, "method_not_allowed")
	s.do(c, "PROPFIND", "/dav/nothing", "Depth: 1").problem(t, 404, "not_found")
	s.do(c, "PROPFIND", "/dav/a%2fb", "Depth: 1").problem(t, 400, "bad_path")
	if a := s.get("/dav"+disk+"/etc/hosts", "Range: bytes=0-8"); a.status != 206 || string(a.body) != "127.0.0.1" {
		t.Errorf("range: %d %q", a.status, a.body)
	}
	s.do(c, "PROPFIND", "/dav/", "Authorization: ", "Depth: 1").problem(t, 401, "unauthorized")
}

// TestCadaver lists and downloads with the real client.
func TestCadaver(t *testing.T) {
	fixture.Need(t, "cadaver", "script")
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	home := t.TempDir()
	writeFile(t, filepath.Join(home, ".netrc"), []byte("machine 127.0.0.1 login "+testUser+" password \""+testPassword+"\"\n"))
	// It asks about a certificate of an authority that it does not know, and only at a terminal.
	cmd := exec.Command("script", "-qec", "cadaver "+s.url("/dav"+disk+"/"), "/dev/null")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.Stdin = strings.NewReader("y\nls\ncd etc\nget hosts\nput .netrc\nmkcol x\nquit\n")
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "Coll:   etc") || strings.Count(text, "405") != 2 {
		t.Errorf("%v\n%s", err, text)
	}
	if sumFile(t, filepath.Join(home, "hosts")) != sumFile(t, filepath.Join(mnt, "etc/hosts")) {
		t.Error("the file differs")
	}
}

// TestDavfs mounts the tree with the kernel's help and reads it as any folder.
func TestDavfs(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "mount.davfs")
	if st, err := os.Stat("/"); err != nil || st.Mode()&0o001 == 0 {
		t.Skip("mount.davfs becomes another user, who cannot pass through / here")
	}
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	dir, conf := t.TempDir(), t.TempDir()
	cert, err := os.ReadFile(s.caFile)
	if err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(conf, "ca.pem")
	for path, mode := range map[string]os.FileMode{filepath.Dir(conf): 0o755, conf: 0o755, conf + "/cache": 0o777} { // it gives up root early
		_ = os.Mkdir(path, mode)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(trusted, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(conf, "davfs2.conf"), []byte("ask_auth 0\nuse_locks 0\ncache_dir "+conf+"/cache\ntrust_ca_cert "+trusted+"\nsecrets "+conf+"/secrets\n"))
	writeFile(t, filepath.Join(conf, "secrets"), []byte(s.url("/dav"+disk+"/")+" "+testUser+" \""+testPassword+"\"\n"))
	cmd := exec.Command("mount.davfs", s.url("/dav"+disk+"/"), dir, "-o", "ro,conf="+conf+"/davfs2.conf")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mount.davfs: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	for _, name := range []string{"etc/hosts", "big.bin", "sparse", "rel", "odd/a+b c", "odd/<script>alert(1)<"} {
		if sumFile(t, filepath.Join(dir, name)) != sumFile(t, filepath.Join(mnt, name)) {
			t.Errorf("%s differs", name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err == nil {
		t.Error("a file can be written")
	}
	fixture.Run(t, "umount", dir)
}
