package tree

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"testing"

	"vmfr/agent/fsys"
)

// walkTree has one guest with links of every kind, and a second backup to escape to.
func walkTree(t *testing.T) *Tree {
	files := map[string]string{
		"etc/hosts":       "127.0.0.1 localhost",
		"etc/alias":       "-> hosts",
		"abs":             "-> /etc/hosts",
		"abs-dir":         "-> /etc",
		"up":              "-> ../../../../../etc/hosts",
		"escape":          "-> ../../b2/root/secret",
		"escape-abs":      "-> /backups/b2/root/secret",
		"dot":             "-> .",
		"self":            "-> self",
		"ping":            "-> pong",
		"pong":            "-> ping",
		"empty":           "-> ",
		"dangling":        "-> /no/such",
		"a/b/c/up2":       "-> ../../../etc/hosts",
		"a/via":           "-> ../abs-dir/../etc/hosts",
		"root":            "-> /",
		"dir":             "/",
		"slashes":         "-> //etc///hosts",
		"trailing":        "-> etc/hosts/",
		"long":            "-> " + strings.Repeat("./", 2000) + "etc",
		"long2":           "-> long/../" + strings.Repeat("./", 1000) + "etc",
		"loop/in/a/chain": "x",
	}
	for i := range 45 {
		files[fmt.Sprintf("n%d", i)] = fmt.Sprintf("-> n%d", i+1)
	}
	files["n45"] = "end"
	engines := stub{
		"one": func() (fsys.FS, error) { return labelled{guestFS(files), "", 0}, nil },
		"two": func() (fsys.FS, error) { return labelled{guestFS(map[string]string{"secret": "other"}), "", 0}, nil },
	}
	return newTree(t, engines,
		Backup{Name: "b1", VM: "web", Disks: []Disk{disk("root", "one")}},
		Backup{Name: "b2", VM: "web", Disks: []Disk{disk("root", "two")}})
}

func TestResolve(t *testing.T) {
	tr := walkTree(t)
	const hosts = "127.0.0.1 localhost"
	for _, c := range []struct {
		path string
		want string // content, or "" for a directory
		err  error
	}{
		{"/backups/b1/root/etc/hosts", hosts, nil},
		{"backups/b1/root/etc/hosts", hosts, nil},
		{"//backups//b1/./root/etc//hosts", hosts, nil},
		{"/backups/b1/root/etc/../etc/hosts", hosts, nil},
		{"/../../backups/b1/root/etc/hosts", hosts, nil},
		{"/backups/b1/root/../../b2/root/secret", "other", nil},
		{"/backups/b1/root/etc/alias", hosts, nil},
		{"/backups/b1/root/abs", hosts, nil},
		{"/backups/b1/root/abs-dir/hosts", hosts, nil},
		{"/backups/b1/root/up", hosts, nil},
		{"/backups/b1/root/a/b/c/up2", hosts, nil},
		{"/backups/b1/root/a/via", hosts, nil},
		{"/backups/b1/root/slashes", hosts, nil},
		{"/backups/b1/root/root/etc/hosts", hosts, nil},
		{"/backups/b1/root/root/../../b2/root/secret", "other", nil}, // the caller's own ".."
		{"/backups/b1/root/dot/dot/etc/hosts", hosts, nil},
		{"/backups/b1/root/dir/", "", nil},
		{"/backups/b1/root/long", "", nil},
		{"/restores/unknown-date/b1/web/root/etc/hosts", hosts, nil},
		{"", "", nil},
		{"/", "", nil},
		{"/backups/b1/root/escape", "", iofs.ErrNotExist},
		{"/backups/b1/root/escape-abs", "", iofs.ErrNotExist},
		{"/backups/b1/root/dangling", "", iofs.ErrNotExist},
		{"/backups/b1/root/empty", "", iofs.ErrNotExist},
		{"/backups/b1/root/self", "", ErrLoop},
		{"/backups/b1/root/ping", "", ErrLoop},
		{"/backups/b1/root/n5", "end", nil}, // 40 links
		{"/backups/b1/root/n4", "", ErrLoop},
		{"/backups/b1/root/long2", "", ErrNameTooLong},
		{"/" + strings.Repeat("x", MaxPath), "", ErrNameTooLong},
		{"/backups/b1/root/etc/hosts/", "", fsys.ErrNotDir},
		{"/backups/b1/root/etc/hosts/.", "", fsys.ErrNotDir},
		{"/backups/b1/root/etc/hosts/..", "", fsys.ErrNotDir},
		{"/backups/b1/root/etc/hosts/x", "", fsys.ErrNotDir},
		{"/backups/b1/root/trailing", "", fsys.ErrNotDir},
		{"/backups/b1/root/no", "", iofs.ErrNotExist},
		{"/backups/b3", "", iofs.ErrNotExist},
	} {
		n, err := tr.Resolve(c.path, true)
		if c.err != nil {
			if !errors.Is(err, c.err) {
				t.Errorf("%.60q: error %v, want %v", c.path, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%.60q: %v", c.path, err)
			continue
		}
		a, err := tr.Attr(n)
		if err != nil || a.IsDir() != (c.want == "") {
			t.Errorf("%.60q: directory %v (%v), want content %q", c.path, a.IsDir(), err, c.want)
			continue
		}
		if c.want != "" && read(t, tr, c.path) != c.want {
			t.Errorf("%.60q: content %q, want %q", c.path, read(t, tr, c.path), c.want)
		}
	}
}

func TestResolveNoFollow(t *testing.T) {
	tr := walkTree(t)
	for path, link := range map[string]bool{
		"/backups/b1/root/abs":                  true,
		"/backups/b1/root/self":                 true,
		"/backups/b1/root/dangling":             true,
		"/backups/b1/root/abs-dir":              true,
		"/backups/b1/root/abs-dir/":             false, // a slash after the link follows it
		"/backups/b1/root/abs-dir/hosts":        false,
		"/backups/b1/root/abs-dir/alias":        true,
		"/restores/unknown-date/b1/web":         true,
		"/restores/unknown-date/b1/web/root/up": true,
	} {
		n, err := tr.Resolve(path, false)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if a, err := tr.Attr(n); err != nil || a.IsSymlink() != link {
			t.Errorf("%q: symbolic link %v (%v), want %v", path, a.IsSymlink(), err, link)
		}
	}
}
