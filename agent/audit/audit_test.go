package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var who = Who{Session: "0011223344556677", Via: "ssh", User: "oadp", Key: "SHA256:abc", Address: "[::1]:22"}

// lines decodes what was written.
func lines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		out = append(out, m)
	}
	return out
}

func TestEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	for range 2 { // the second run appends
		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Login(who); err != nil {
			t.Fatal(err)
		}
		l.Refused(who, "exec", "sh -c 'rm'\nx")
		l.List(who, "/backups/bad\xff\\\n", 7, nil)
		f := l.Open(who, "/f", 100)
		f.Read(0, 10, nil)
		f.Read(10, 10, nil)
		f.Read(50, 0, errors.New("corrupt"))
		f.Close()
		f.Close()
		l.Open(who, "/never read", 1).Close()
		l.Archive(who, Archive{Paths: []string{"/a", "/b\x00"}, Format: "zip", Files: 2, Bytes: 3, Duration: 1500 * time.Millisecond})
		l.Run(who, Run{Args: []string{"rsync", "--server"}, Sent: 5, Received: 6, Exit: 23, Duration: time.Second})
		l.Query(who, "search", []string{"/"}, 0, nil)
		l.Logout(who, time.Second)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Logout(who, 0) // dropped
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := lines(t, string(b))
	if len(got) != 16 {
		t.Fatalf("%d lines:\n%s", len(got), b)
	}
	for i, want := range []map[string]any{
		{"event": "login", "session": who.Session, "via": "ssh", "user": "oadp", "key": who.Key, "address": who.Address},
		{"event": "refused", "what": "exec", "why": `sh -c 'rm'\x0ax`},
		{"event": "list", "path": `/backups/bad\xff\\\x0a`, "entries": 7.0},
		{"event": "read", "path": "/f", "size": 100.0, "bytes": 20.0, "reads": 3.0, "error": "corrupt"},
		{"event": "archive", "format": "zip", "files": 2.0, "bytes": 3.0, "seconds": 1.5},
		{"event": "run", "bytes": 5.0, "received": 6.0, "exit": 23.0},
		{"event": "query", "what": "search"},
		{"event": "logout"},
	} {
		for k, v := range want {
			if got[i][k] != v {
				t.Errorf("line %d: %s is %v, not %v", i, k, got[i][k], v)
			}
		}
		if _, err := time.Parse(time.RFC3339Nano, got[i]["time"].(string)); err != nil {
			t.Error(err)
		}
	}
	if r := fmt.Sprint(got[3]["ranges"]); r != "[[0 20]]" {
		t.Errorf("ranges %s", r)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestNilRecordsNothing(t *testing.T) {
	var l *Log
	if err := l.Login(who); err != nil {
		t.Error(err)
	}
	f := l.Open(who, "/x", 1)
	f.Read(0, 1, nil)
	f.Close()
	l.List(who, "/", 0, nil)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// flaky fails while bad is set.
type flaky struct {
	mu  sync.Mutex
	bad bool
	bytes.Buffer
}

func (f *flaky) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad {
		return 0, errors.New("disk full")
	}
	return f.Buffer.Write(p)
}

func (f *flaky) set(bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = bad
}

// TestFailure tells that a full disk is told, and that the log goes on afterwards.
func TestFailure(t *testing.T) {
	w := &flaky{}
	w.set(true)
	l := New(w)
	for l.Err() == nil {
		l.List(who, "/", 0, nil)
	}
	w.set(false)
	for l.Err() != nil {
		l.List(who, "/later", 0, nil)
	}
	if err := l.Login(who); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, m := range lines(t, w.String()) {
		if m["event"] == nil {
			t.Errorf("%v", m)
		}
	}
}

// TestConcurrent counts that nothing is lost or mixed, also beyond the queue's length.
func TestConcurrent(t *testing.T) {
	var b bytes.Buffer
	l := New(&b)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range queueSize / 4 {
				l.List(who, fmt.Sprint(i, "/", k), 1, nil)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	seen := map[any]bool{}
	for _, m := range lines(t, b.String()) {
		seen[m["path"]] = true
	}
	if len(seen) != 8*queueSize/4 {
		t.Errorf("%d different lines", len(seen))
	}
}

// TestRanges compares the merged ranges with a map of every byte.
func TestRanges(t *testing.T) {
	l := New(new(bytes.Buffer))
	defer l.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		f := l.Open(who, "/x", 1000)
		read := make([]bool, 1000)
		for range 1 + round/3 {
			off, n := rnd.IntN(990), 1+rnd.IntN(10)
			f.Read(int64(off), n, nil)
			for i := off; i < off+n; i++ {
				read[i] = true
			}
		}
		var got [1000]bool
		last := int64(-1)
		for _, r := range f.ranges {
			if r.from <= last || r.to <= r.from {
				t.Fatalf("ranges %v", f.ranges)
			}
			last = r.to
			for i := r.from; i < r.to; i++ {
				got[i] = true
			}
		}
		for i := range read {
			if read[i] && !got[i] || got[i] && !read[i] && !f.joined {
				t.Fatalf("round %d, byte %d: read %t, recorded %t in %v", round, i, read[i], got[i], f.ranges)
			}
		}
		if len(f.ranges) > maxRanges {
			t.Fatalf("%d ranges", len(f.ranges))
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"/plain/name", `back\slash`, "new\nline", "bad\xff", "ünïcode", "\u202eevil", `\x41`, "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		if back, err := Unescape(e); err != nil || back != s {
			t.Fatalf("%q became %q, and %q again (%v)", s, e, back, err)
		}
		if strings.ContainsAny(e, "\n\r\x00\x1b") {
			t.Fatalf("%q is not one line", e)
		}
		_, _ = Unescape(s)
	})
}

func BenchmarkRead(b *testing.B) {
	l := New(new(bytes.Buffer))
	defer l.Close()
	f := l.Open(who, "/x", 1<<40)
	for i := range b.N {
		f.Read(int64(i)<<17, 1<<17, nil)
	}
}
