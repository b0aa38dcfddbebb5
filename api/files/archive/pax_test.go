package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// decode reads one member with the standard library.
func decode(t *testing.T, b []byte) (*tar.Reader, *tar.Header) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(append(b, make([]byte, 2*block)...)))
	h, err := r.Next()
	if err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return r, h
}

// TestHeaders: what the standard library reads is what was written. One encoder makes all, so
// nothing of one header may be left in the next.
func TestHeaders(t *testing.T) {
	long := strings.Repeat("d/", 80) + strings.Repeat("n", 120)
	var enc encoder
	for _, h := range []header{
		{name: long, flag: typeRegular, size: 5, attr: fsys.Attr{Mode: 0o4755, UID: 3_000_000_000, GID: 1 << 21, Mtime: time.Unix(1<<34, 123456789)}},
		{name: "short", flag: typeRegular, attr: fsys.Attr{Mtime: time.Unix(7, 0)}},
		{name: "näme", flag: typeRegular, size: 1 << 33, attr: fsys.Attr{Mtime: time.Unix(-1, 750_000_000)}},
		{name: "new\nline=\"1", flag: typeSymlink, link: strings.Repeat("t", 300), attr: fsys.Attr{Mtime: time.Unix(-5, 0)}},
		{name: "x", flag: typeRegular, attr: fsys.Attr{Mtime: time.Unix(1, 10)}, xattrs: map[string][]byte{"user.a": {0, '\n', 255, '='}, "user.empty": {}, "user.long": bytes.Repeat([]byte("v"), 981)}},
		{name: "dev", flag: typeChar, attr: fsys.Attr{Major: 259, Minor: 1 << 20, Mtime: time.Unix(1, 0)}},
	} {
		_, got := decode(t, enc.encode(&h))
		if got.Name != h.name || got.Linkname != h.link || got.Size != h.size || got.Uid != int(h.attr.UID) || got.Gid != int(h.attr.GID) ||
			got.Mode != int64(h.attr.Mode) || !got.ModTime.Equal(h.attr.Mtime) || got.Devmajor != int64(h.attr.Major) || got.Devminor != int64(h.attr.Minor) {
			t.Errorf("%.20q: got %+v", h.name, got)
		}
		xs := map[string][]byte{}
		for k, v := range got.PAXRecords {
			if n, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				xs[n] = []byte(v)
			}
		}
		if !maps.EqualFunc(xs, h.xattrs, bytes.Equal) {
			t.Errorf("%q: attributes %q", h.name, xs)
		}
	}
}

// TestRecordLengths: the length of a record counts its own digits.
func TestRecordLengths(t *testing.T) {
	for n := range 1100 {
		var r records
		r.add("key", strings.Repeat("v", n))
		length, rest, _ := strings.Cut(string(r.b), " ")
		total := 0
		for _, c := range length {
			total = 10*total + int(c-'0')
		}
		if total != len(r.b) || !strings.HasPrefix(rest, "key=") || !strings.HasSuffix(rest, "\n") {
			t.Fatalf("%d: %.20q of %d bytes", n, r.b, len(r.b))
		}
	}
}

func TestKeywords(t *testing.T) {
	for name, want := range map[string]string{"user.a": "user.a", "user.a=b": "user.a%3Db", "user.50%": "user.50%25", "user.%3D": "user.%253D"} {
		var r records
		r.xattrs(map[string][]byte{name: []byte("v")})
		if !strings.Contains(string(r.b), " SCHILY.xattr."+want+"=v\n") {
			t.Errorf("%s: %q", name, r.b)
		}
	}
}

// TestSparseHeader: the standard library's reader of GNU 1.0 maps agrees with ours.
func TestSparseHeader(t *testing.T) {
	for name, segs := range map[string][]segment{
		"hole at the end": {{0, 512}}, "hole at the start": {{8192, 10000}}, "several": {{0, 1}, {5000, 6000}, {9999, 10000}}, "all": nil,
	} {
		const size = 10000
		want := make([]byte, size)
		var data []byte
		for i, s := range segs {
			p := bytes.Repeat([]byte{byte('a' + i)}, int(s.end-s.off))
			copy(want[s.off:], p)
			data = append(data, p...)
		}
		m := sparseMap(segs, size)
		h := header{name: "dir/sparse", flag: typeRegular, sparse: true, real: size, size: int64(len(m) + len(data))}
		b := append(new(encoder).encode(&h), m...)
		b = append(b, data...)
		b = append(b, zeros[:padding(int64(len(data)))]...)
		r, got := decode(t, b)
		body, err := io.ReadAll(r)
		if err != nil || got.Name != "dir/sparse" || got.Size != size || !bytes.Equal(body, want) {
			t.Errorf("%s: %v, %q with %d of %d bytes", name, err, got.Name, len(body), got.Size)
		}
	}
}

// TestManySegments: a map is bounded, and what it leaves out are holes, never data.
func TestManySegments(t *testing.T) {
	var parts []extent.Reader
	for i := range 3 * maxSegments {
		parts = append(parts, extent.Bytes([]byte{1}), extent.Zeros(int64(minHole+i%7)))
	}
	r, err := extent.Concat(parts...)
	if err != nil {
		t.Fatal(err)
	}
	segs, err := segments(r)
	if err != nil || len(segs) > maxSegments {
		t.Fatalf("%d segments, %v", len(segs), err)
	}
	off, at := int64(0), 0
	for i := range 3 * maxSegments { // every byte that is no zero lies in a segment
		for at < len(segs) && segs[at].end <= off {
			at++
		}
		if at == len(segs) || off < segs[at].off {
			t.Fatalf("the byte at %d is in no segment", off)
		}
		off += 1 + int64(minHole+i%7)
	}
}
