package sshd

import (
	"context"
	"fmt"
	"testing"

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

// endless is a fallback whose appliances boot until they are closed.
type endless struct{ booting chan struct{} }

func (endless) Name() string                                    { return "endless" }
func (e endless) Backup(string, []volume.Disk) engine.Appliance { return e }
func (endless) Status() engine.ApplianceStatus                  { return engine.ApplianceStatus{} }
func (endless) Close() error                                    { return nil }
func (e endless) Filesystems(ctx context.Context) ([]engine.Found, error) {
	close(e.booting)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestWaitersLeave has clients go away while what they ask for boots.
func TestWaitersLeave(t *testing.T) {
	for name, ask := range map[string]func(x *rig) func(){
		"sftp stat": func(r *rig) func() {
			x, c := r.raw()
			x.send(request(17, 7, "/backups/b/d/etc/hosts")) // STAT
			return func() { c.Close() }
		},
		"sftp list": func(r *rig) func() {
			x, c := r.raw()
			x.send(request(11, 7, "/backups/b/d")) // OPENDIR
			x.send(request(12, 8, string(x.next()[9:])))
			return func() { c.Close() }
		},
		"scp": func(r *rig) func() {
			c, err := r.dial()
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start("scp -f -r /backups/b/d/e*"); err != nil {
				t.Fatal(err)
			}
			return func() { c.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := make([]byte, 1<<20)
			copy(disk, "something")
			e := endless{make(chan struct{})}
			tr, err := tree.New(t.Context(), tree.Config{
				Backups: []tree.Backup{{Name: "b", Disks: []tree.Disk{{Name: "d", Source: "d.raw", Format: "raw", Reader: extent.Bytes(disk)}}}},
				Engines: []engine.Engine{left{}}, Version: "test", Fallback: e,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tr.Close() })
			r := serve(t, tr, nil)
			leave := ask(r)
			<-e.booting
			leave()
			eventually(t, "the connection's end", func() bool { return r.counters.Snapshot().Connections == 0 })
		})
	}
}

// TestLateSession: a channel that gets its goroutine when its connection has ended is no session; Serve
// has returned then.
func TestLateSession(t *testing.T) {
	tr, _ := gatedTree(t)
	s, c := newServer(tr, complete(t)), &conn{}
	if !c.begin() {
		t.Fatal("no session begins")
	}
	c.wg.Done()
	c.wait()
	s.session(c, nil, nil) // would use the channel, which is nil
	if n := s.panics.Load(); n != 0 || c.sessions.Load() != 0 {
		t.Errorf("%d panics, %d sessions", n, c.sessions.Load())
	}
}
