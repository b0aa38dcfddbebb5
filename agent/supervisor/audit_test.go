package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/audit"
	"vmfr/test/fixture"
)

const patience = 20 * time.Second

// eventually calls f until it gives no error.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

func testLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func openAudit(t testing.TB, path string) *AuditLog {
	t.Helper()
	a, err := OpenAuditLog(path, "node-1", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// auditLines decodes a file, each line of which must be whole.
func auditLines(t testing.TB, path string) (out []auditLine) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var l auditLine
		if err := json.Unmarshal(line, &l); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, l)
	}
	return out
}

// record is a worker's line of about n bytes.
func record(i, n int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"event":"read","path":"/a&b<%d>%s"}`, i, strings.Repeat("x", n)))
}

// TestAuditLog: many sessions write at once, and the file is renamed meanwhile.
func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	path, rotated := filepath.Join(dir, "audit"), filepath.Join(dir, "audit.1")
	a := openAudit(t, path)
	const sessions, lines = 8, 500
	var all sync.WaitGroup
	half := make(chan struct{})
	for s := range sessions {
		all.Go(func() {
			for i := range lines {
				a.put(auditLine{Session: fmt.Sprint(s), Namespace: "velero", Name: "r", Record: record(i, 100)})
				if s == 0 && i == lines/2 {
					close(half)
				}
			}
		})
	}
	<-half
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	eventually(t, func() error { // a line makes the new file, after auditCheck at the latest
		a.put(auditLine{Session: "last", Record: record(0, 1)})
		_, err := os.Stat(path)
		return err
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	for _, l := range append(auditLines(t, rotated), auditLines(t, path)...) {
		if l.Session == "last" {
			continue
		}
		if l.Node != "node-1" || l.Namespace != "velero" || l.Name != "r" || string(l.Record) != string(record(next[l.Session], 100)) {
			t.Fatalf("%+v is not the next line of its session: %d", l, next[l.Session])
		}
		next[l.Session]++
	}
	for s := range sessions {
		if n := next[fmt.Sprint(s)]; n != lines {
			t.Errorf("session %d has %d lines of %d", s, n, lines)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	a.put(auditLine{}) // dropped
}

// TestAuditDiskFull: lines are lost, counted and told, and the service goes on.
func TestAuditDiskFull(t *testing.T) {
	fixture.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("x", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path, filler := filepath.Join(dir, "audit"), filepath.Join(dir, "filler")
	a := openAudit(t, path)
	put := 0
	line := func() { a.put(auditLine{Session: "s", Record: record(put, 1000)}); put++ }
	line()
	eventually(t, func() error {
		if a.written.Load() == 0 {
			return errors.New("nothing is written")
		}
		return nil
	})
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 64<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	_ = f.Close()
	eventually(t, func() error {
		line()
		if n := a.lost.Load(); n < 5 {
			return fmt.Errorf("%d lines of %d are lost", n, put)
		}
		return nil
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		line()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.failing {
			return errors.New("it still fails")
		}
		return nil
	})
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "lines were lost") {
		t.Errorf("Close: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var told, kept uint64
	for text := range bytes.Lines(b) {
		var l auditLine
		if json.Unmarshal(text, &l) != nil {
			continue // the line that did not fit
		}
		told += l.Lost
		if l.Record != nil {
			kept++
		}
	}
	if told == 0 || told != a.lost.Load() || kept+told != uint64(put) {
		t.Errorf("%d lines: %d kept, %d told to be lost, %d lost", put, kept, told, a.lost.Load())
	}
}

// TestAuditUntold: lines that are lost are counted once, also where the line that tells of them is lost, too.
func TestAuditUntold(t *testing.T) {
	fixture.NeedRoot(t)
	dir := t.TempDir()
	page := os.Getpagesize()
	if err := unix.Mount("x", dir, "tmpfs", 0, fmt.Sprintf("size=%d", page)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	a := &AuditLog{path: filepath.Join(dir, "audit"), log: testLog(t), last: time.Now(), failing: true, untold: 5}
	a.lost.Store(5)
	var err error
	if a.file, err = openAuditFile(a.path); err != nil {
		t.Fatal(err)
	}
	defer a.file.Close()
	a.write(append(bytes.Repeat([]byte("x"), page-1), '\n')) // as much as there is room for
	if w, l := a.written.Load(), a.lost.Load(); w != 1 || l != 5 || a.untold != 5 || !a.failing {
		t.Errorf("%d lines are written, %d lost, %d still to be told", w, l, a.untold)
	}
}

// TestAuditStalls: a file that takes nothing any more holds nobody up for long.
func TestAuditStalls(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0) // and does not read
	if err != nil {
		t.Fatal(err)
	}
	a := openAudit(t, path)
	began := time.Now()
	put := 0
	for ; a.lost.Load() < 100; put++ {
		a.put(auditLine{Session: "s", Record: record(put, 100<<10)})
		if time.Since(began) > auditStall+patience {
			t.Fatal("nothing is given up")
		}
	}
	if took := time.Since(began); took < auditStall {
		t.Errorf("lines were given up after %s", took)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	eventually(t, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.failing {
			return errors.New("it still fails")
		}
		if n := a.written.Load() + a.lost.Load(); n < uint64(put) { // which Close does not wait for long for
			return fmt.Errorf("%d lines of %d are written or lost", n, put)
		}
		return nil
	})
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "lines were lost") {
		t.Errorf("Close: %v", err)
	}
	_ = reader.Close()
}

// TestReadRecord: what a worker may write, and what is no record.
func TestReadRecord(t *testing.T) {
	var honest bytes.Buffer
	l := audit.New(&honest)
	who := audit.Who{Session: "s", Via: "ssh", User: "oadp\x1b[2J", Address: "[::1]:22"}
	_ = l.Login(who)
	l.List(who, "/\u009b\xff\u2028\"<&>\\", 1, errors.New("x\ny"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(&honest)
	for i := range 2 {
		if b, err := readRecord(r); err != nil {
			t.Errorf("an honest line %d: %v %s", i, err, b)
		}
	}
	for _, bad := range []string{
		"", "{", "[]", "1", `{"a":1}{"b":2}`, `{"a":1},`, "{\"a\":\"\x1b\"}", "{\"a\":\"\x80\"}", "{\"a\":\"\u009b\"}", "{\"a\":\"\u2028\"}", "{\r}",
		`{"a":"` + strings.Repeat("x", maxRecord) + `"}`,
	} {
		r := bufio.NewReader(strings.NewReader(bad + "\n" + `{"next":1}` + "\nend"))
		if b, err := readRecord(r); !errors.Is(err, errRecord) || len(err.Error()) > 100 {
			t.Errorf("%.40q: %.40q, %v", bad, b, err)
		}
		if b, err := readRecord(r); err != nil || string(b) != `{"next":1}` {
			t.Errorf("after %.40q: %q, %v", bad, b, err)
		}
		if b, err := readRecord(r); !errors.Is(err, io.EOF) {
			t.Errorf("%q, %v", b, err)
		}
	}
}
