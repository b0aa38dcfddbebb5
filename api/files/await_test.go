package files

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
)

// left is an engine that leaves every volume to the fallback.
type left struct{}

func (left) Name() string { return "left" }
func (left) Open(volume.Volume) (fsys.FS, error) {
	return nil, fmt.Errorf("left: %w", fsys.ErrUnsupported)
}

// slow is a fallback whose appliances boot until they are let go on or closed.
type slow struct {
	booting chan struct{}
	on      chan struct{}
}

func (slow) Name() string                                    { return "slow" }
func (s slow) Backup(string, []volume.Disk) engine.Appliance { return s }
func (slow) Status() engine.ApplianceStatus                  { return engine.ApplianceStatus{} }
func (slow) Close() error                                    { return nil }

func (s slow) Filesystems(ctx context.Context) ([]engine.Found, error) {
	close(s.booting)
	select {
	case <-s.on:
		return []engine.Found{{Disk: "root", FS: &wide{n: 3}, Type: "wide", Default: true}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func openSlow(t *testing.T) (*tree.Tree, slow) {
	t.Helper()
	blank := make([]byte, 1<<20)
	copy(blank, "something")
	s := slow{make(chan struct{}), make(chan struct{})}
	tr, err := tree.New(t.Context(), tree.Config{
		Backups: []tree.Backup{{Name: "nightly", Disks: []tree.Disk{{Name: "root", Format: "raw", Reader: extent.Bytes(blank)}}}},
		Engines: []engine.Engine{left{}}, Fallback: s,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr, s
}

// leaveDuring asks for path, leaves when begun is closed, and tells whether the request ends within
// limit then.
func leaveDuring(t *testing.T, tr *tree.Tree, method, path string, begun <-chan struct{}, limit time.Duration) bool {
	t.Helper()
	h, err := newHandler(tr, Config{User: testUser, Password: testPassword})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(testUser, testPassword)
	req.Header.Set("Depth", "1") // for PROPFIND
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := srv.Client().Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	<-begun
	leave()
	<-done
	return h.close(limit) // waits for the requests under way
}

// TestWaitersLeave: who goes away while what they asked for boots is not waited for.
func TestWaitersLeave(t *testing.T) {
	const q = "?path=" + disk
	for name, r := range map[string]struct{ method, path string }{
		"file": {"GET", "/files" + disk + "/f"}, "stat": {"GET", "/files" + disk + "/f?stat=1"}, "folder": {"GET", "/files" + disk + "/"},
		"webdav": {"GET", "/dav" + disk + "/f"}, "propfind": {"PROPFIND", "/dav" + disk + "/"},
		"entries": {"GET", "/api/v1/entries" + q}, "sorted": {"GET", "/api/v1/entries" + q + "&sort=size"},
		"archive": {"GET", "/api/v1/archive" + q + "&format=tar"}, "file in an archive": {"GET", "/api/v1/archive" + q + "/f"},
		"resumable": {"GET", "/api/v1/archive" + q + "&format=tar&resumable=1"},
		"search":    {"GET", "/api/v1/search" + q}, "versions": {"GET", "/api/v1/versions?path=root/f"},
		"diff": {"GET", "/api/v1/diff?from=" + disk + "&to=/backups"}, "checksum": {"GET", "/api/v1/checksum" + q + "/f"},
		"manifest": {"GET", "/api/v1/manifest" + q},
		"page":     {"GET", "/browse" + disk}, "page of a file": {"GET", "/browse" + disk + "/f"}, "download": {"GET", "/download?dir=" + disk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, s := openSlow(t)
			if !leaveDuring(t, tr, r.method, r.path, s.booting, 20*time.Second) {
				t.Fatal("the request goes on")
			}
		})
	}
}

// TestWaitLongerThanStall: a client is not cut off for what we have not got ready.
func TestWaitLongerThanStall(t *testing.T) {
	for name, h1 := range map[string]bool{"HTTP/1.1": true, "HTTP/2": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, boot := openSlow(t)
			s := start(t, tr, func(c *Config) { c.Limits.Stall = 2 * time.Second })
			go func() {
				<-boot.booting
				time.Sleep(3 * time.Second) // of the boot, longer than a client may
				close(boot.on)
			}()
			a := s.do(s.client(h1), http.MethodGet, "/api/v1/entries?path="+disk)
			if a.err != nil || a.status != http.StatusOK {
				t.Errorf("%d %v %.300s", a.status, a.err, a.body)
			}
		})
	}
}
