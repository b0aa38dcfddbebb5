package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// listed is the line of a manifest's entry, written a second time and independently.
func listed(path string, e fsystest.Entry) string {
	kind := map[uint32]string{fsys.ModeRegular: "file", fsys.ModeDir: "dir", fsys.ModeSymlink: "link", fsys.ModeChar: "char", fsys.ModeFIFO: "fifo"}[e.Mode&fsys.ModeFmt]
	line := fmt.Sprintf("%s type=%s mode=%04o uid=%d gid=%d nlink=%d time=%d.%09d", octal(path), kind, e.Mode&0o7777, e.UID, e.GID, e.Nlink, e.Mtime/1e9, e.Mtime%1e9)
	switch kind {
	case "file":
		line += fmt.Sprintf(" size=%d sha256digest=%s", e.Size, e.SHA256)
	case "char":
		line += fmt.Sprintf(" device=linux,%d,%d", e.Major, e.Minor)
	}
	return line + "\n"
}

func octal(s string) string {
	return strings.NewReplacer(" ", `\040`, "\n", `\012`, "\xff", `\377`, "\xfe", `\376`, "#", `\043`, "=", `\075`, "ü", `\303\274`).Replace(s)
}

func TestWriteLine(t *testing.T) {
	file := &object{path: "b/d/x", attr: fsys.Attr{Mode: fsys.ModeRegular | 0o4755, UID: 1, GID: 2, Nlink: 2, Size: 3, Mtime: time.Unix(-1, 5)},
		sum: "abc", xattrs: map[string][]byte{"user.b": {1, 255}, "user.a b": nil}}
	tests := []struct {
		o    *object
		want string
	}{
		{file, `./b/d/x type=file mode=4755 uid=1 gid=2 nlink=2 time=-1.000000005 size=3 sha256digest=abc xattr.user.a\040b= xattr.user.b=01ff`},
		{&object{path: "b/d/y", same: file}, `./b/d/y type=file mode=4755 uid=1 gid=2 nlink=2 time=-1.000000005 size=3 sha256digest=abc xattr.user.a\040b= xattr.user.b=01ff`},
		{&object{path: "l", attr: fsys.Attr{Mode: fsys.ModeSymlink | 0o777, Nlink: 1, Mtime: time.Unix(0, 0)}, target: `a \`}, `./l type=link mode=0777 uid=0 gid=0 nlink=1 time=0.000000000 link=a\040\134`},
		{&object{path: "n", err: fmt.Errorf("x: %w", fsys.ErrCorrupt)}, "./n error=corrupt"},
		{&object{path: "n", err: errors.New("x")}, "./n error=io"},
	}
	for _, test := range tests {
		var b bytes.Buffer
		writeLine(&b, test.o)
		if b.String() != test.want+"\n" {
			t.Errorf("got  %swant %s\n", b.String(), test.want)
		}
	}
}

func TestParseDisk(t *testing.T) {
	good := map[string]diskSpec{
		"b/d=p":                     {"b", "d", "p", ""},
		"b/d=/a=b/c":                {"b", "d", "/a=b/c", ""},
		"b/d=p,format=raw":          {"b", "d", "p", "raw"},
		"b/d=a,b=c,format=qcow2":    {"b", "d", "a,b=c", "qcow2"},
		"nightly-0412/root.x_1=a b": {"nightly-0412", "root.x_1", "a b", ""},
	}
	for arg, want := range good {
		if got, err := parseDisk(arg); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", arg, got, err, want)
		}
	}
	for _, arg := range []string{"", "b", "b/d", "=p", "/d=p", "b/=p", "b/d=", "b/d=,format=raw", "b/d=p,", "b/d=p,format=", "b/d=p,format=RAW", "b/.d=p", "b/d@e=p", "b/d=a,b"} {
		if got, err := parseDisk(arg); exitCode(err) != exitUsage {
			t.Errorf("%q: %+v, %v; want a usage error", arg, got, err)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c.d": "/a/b-c.d", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "a;b": "'a;b'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
