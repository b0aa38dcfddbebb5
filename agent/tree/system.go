package tree

import (
	"bytes"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"vmfr/agent/fsys"
)

// Bounds of looking for a system.
const (
	maxOSRelease = 64 << 10 // bytes
	maxOSValue   = 256      // bytes of one value
	maxScanned   = 64 << 10 // names of a folder that are compared regardless of case
)

// examine finds out whether a system is installed in c, and what it mounts.
func (t *Tree) examine(c *content) {
	s := alone(t, c.fs)
	c.system = s.linux()
	if c.system == nil && s.windows() {
		c.system = &OperatingSystem{Family: "windows", ID: "windows", Name: "Windows"}
		return
	}
	if c.system == nil {
		return
	}
	text, err := s.read("etc/fstab", maxFstabSize+1)
	switch {
	case err == nil:
		c.fstab, c.notes = parseFstab(text)
	case KindOf(err) != KindNotFound && KindOf(err) != KindNotDir:
		c.notes = []string{"fstab cannot be read: " + err.Error()}
	}
	if text, err := s.read("etc/crypttab", maxFstabSize); err == nil {
		c.crypt = parseCrypttab(text)
	}
}

// single is one file system by itself: paths and links stay inside.
type single struct {
	tab *table
	top Node
}

func alone(t *Tree, fs fsys.FS) single {
	tab := &table{t: t, quiet: true}
	return single{tab, tab.set(0, &mounted{fs: fs, guest: true})}
}

// read returns at most limit bytes of a regular file.
func (s single) read(path string, limit int64) ([]byte, error) {
	n, err := s.walk(path, true)
	if err != nil {
		return nil, err
	}
	r, err := s.tab.open(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, max(0, min(limit, r.Size())))
	k, err := s.tab.readAt(n, r, b)
	if err == io.EOF {
		err = nil
	}
	return b[:k], err
}

// linux reads os-release(5); nil where there is none.
func (s single) linux() *OperatingSystem {
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, err := s.read(path, maxOSRelease); err == nil {
			os := parseOSRelease(text)
			return &os
		}
	}
	// Where /usr is a file system of its own, the link leads nowhere until that is mounted.
	if n, err := s.walk("etc/os-release", false); err == nil {
		if a, err := s.tab.Attr(n); err == nil && a.IsSymlink() {
			if n, err = s.walk("etc/fstab", true); err == nil {
				if a, err = s.tab.Attr(n); err == nil && a.IsRegular() {
					return &OperatingSystem{Family: "linux"}
				}
			}
		}
	}
	return nil
}

// walk finds a path inside the file system.
func (s single) walk(path string, follow bool) (Node, error) {
	w := walk{space: s.tab, stack: []Node{s.top}}
	err := w.run(path, follow)
	return w.top(), err
}

// parseOSRelease takes ID, VERSION_ID and PRETTY_NAME from os-release(5): shell assignments,
// one a line, whose values may be quoted and hold nothing that a shell would expand.
func parseOSRelease(text []byte) OperatingSystem {
	os := OperatingSystem{Family: "linux"}
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if !ok {
			continue
		}
		switch key {
		case "ID":
			os.ID = shellValue(value)
		case "VERSION_ID":
			os.Version = shellValue(value)
		case "PRETTY_NAME":
			os.Name = shellValue(value)
		}
	}
	return os
}

// shellValue removes quotes and backslashes, and what could disturb a terminal.
func shellValue(s string) string {
	quote := byte(0)
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		quote, s = s[0], s[1:len(s)-1]
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == '\\' && quote != '\'' && i+1 < len(s) {
			i++
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+n > maxOSValue {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// windows tells whether Windows is installed: its registry is where the boot loader looks.
func (s single) windows() bool {
	for _, folder := range []string{"Windows", "WINNT"} {
		config, err := s.find(s.top, folder, "System32", "config")
		if err != nil {
			continue
		}
		for _, hive := range []string{"SOFTWARE", "SYSTEM"} {
			if n, err := s.find(config, hive); err == nil {
				if a, err := s.tab.Attr(n); err == nil && a.IsRegular() {
					return true
				}
			}
		}
	}
	return false
}

// find walks names regardless of case, as Windows does, without following links.
func (s single) find(n Node, names ...string) (Node, error) {
	for _, name := range names {
		next, err := s.tab.Lookup(n, name)
		if err != nil {
			if next, err = s.fold(n, name); err != nil {
				return Node{}, err
			}
		}
		n = next
	}
	return n, nil
}

// fold looks for a name that differs in case only.
func (s single) fold(dir Node, name string) (Node, error) {
	buf := make([]fsys.Dirent, 256)
	seen := 0
	for from := fsys.Cookie(0); ; {
		k, err := s.tab.ReadDir(dir, from, buf)
		for _, e := range buf[:k] {
			if strings.EqualFold(e.Name, name) {
				return s.tab.Lookup(dir, e.Name)
			}
			from = e.Next
		}
		if seen += k; err != nil || k == 0 || seen > maxScanned {
			return Node{}, fmt.Errorf("%q: %w", name, iofs.ErrNotExist)
		}
	}
}
