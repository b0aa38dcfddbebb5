package files

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"
)

func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// listed is a page of a folder.
type listed struct {
	Path    string
	Entries []entry
	Next    string
}

// bytes is the name as the guest has it.
func (e entry) bytes() string {
	if e.NameBytes != nil {
		return string(e.NameBytes)
	}
	return e.Name
}

func (e entry) target() string {
	if e.TargetBytes != nil {
		return string(e.TargetBytes)
	}
	return e.Target
}

func mode(t *testing.T, octal string) uint32 {
	t.Helper()
	m, err := strconv.ParseUint(octal, 8, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(m)
}

func nanos(n int64) time.Time { return time.Unix(0, n) }

// listAll reads a folder page by page.
func (s *server) listAll(c *http.Client, path string, limit int) []entry {
	s.t.Helper()
	var all []entry
	cursor := ""
	for {
		a := s.do(c, "GET", fmt.Sprintf("%s?list=1&limit=%d&cursor=%s", path, limit, cursor))
		var p listed
		if err := json.Unmarshal(a.body, &p); err != nil || a.status != http.StatusOK {
			s.t.Fatalf("%s: %d %v %.300q", path, a.status, err, a.body)
		}
		if len(p.Entries) > limit {
			s.t.Fatalf("%d entries on a page of %d", len(p.Entries), limit)
		}
		all = append(all, p.Entries...)
		if p.Next == "" {
			return all
		}
		cursor = p.Next
	}
}
