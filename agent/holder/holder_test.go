package holder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

const patience = 20 * time.Second

// pod is a root directory as the controller makes it for a holder.
type pod struct {
	t    testing.TB
	root string
	doc  *api.Session
	key  []byte
}

func newPod(t testing.TB) *pod {
	p := &pod{t: t, root: t.TempDir(), key: []byte(strings.Repeat("k", api.JoinKeyBytes))}
	p.doc = &api.Session{
		Version: api.Version, ID: api.ID(p.key), UID: "u", Name: "recover", Namespace: "velero", VM: api.VM{Name: "web", Namespace: "shop"},
		Backups: []api.Backup{{Name: "nightly", Timestamp: time.Unix(1700000000, 0).UTC(), Disks: []api.Disk{
			{Name: "root", Mode: api.Filesystem}, {Name: "data", Mode: api.Filesystem}, {Name: "gone", Mode: api.Block}}}},
		SSH: &api.SSH{}, Browser: &api.Browser{},
	}
	p.writeDocument()
	for dir, files := range map[string]map[string]string{
		api.DirIdentity: {api.KeyJoin: string(p.key), api.KeyHostKey: "host"}, api.DirToken: {api.FileToken: "token\n"},
		api.DirSSH:      {api.KeyUsername: "oadp", api.KeyAuthorizedKeys: "keys"},
		api.DirBrowser:  {api.KeyUsername: "oadp", api.KeyPassword: "secret"},
		api.DirTLS:      {api.KeyCertificate: "cert", api.KeyPrivateKey: "key"},
		api.DirDiskKeys: {"luks": "open sesame", "..data": "the kubelet's"},
		api.Volume(0):   {"disk.img": "disk 0", "another.img": "not this"},
		api.Volume(1):   {"data.qcow2": "disk 1", "README": "not this"},
		api.DirAgent:    nil,
	} {
		p.write(dir, files)
	}
	return p
}

func (p *pod) write(dir string, files map[string]string) {
	p.t.Helper()
	dir = filepath.Join(p.root, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	for name, content := range files {
		// As the kubelet does, so that nobody reads half of it.
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *pod) writeDocument() {
	p.t.Helper()
	b, err := json.Marshal(p.doc)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(api.DirSession, map[string]string{api.KeySession: string(b)})
}

// listen is the node agent's socket.
func (p *pod) listen() net.Listener {
	p.t.Helper()
	path := filepath.Join(p.root, api.DirAgent, api.FileSocket)
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = l.Close() })
	return l
}

// accept takes the next holder and its Hello.
func accept(t testing.TB, l net.Listener) (*session.Conn, *session.Message) {
	t.Helper()
	_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := session.NewConn(c.(*net.UnixConn))
	t.Cleanup(func() { _ = conn.Close() })
	return conn, receive(t, conn)
}

func receive(t testing.TB, c *session.Conn) *session.Message {
	t.Helper()
	m, err := c.Receive(patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func send(t testing.TB, c *session.Conn, m *session.Message) {
	t.Helper()
	if err := c.Send(m, patience); err != nil {
		t.Fatal(err)
	}
}

// kept keeps reports.
type kept struct {
	mu   sync.Mutex
	got  map[string]string
	fail int
	news chan struct{}
}

func (k *kept) Put(_ context.Context, uid string, report []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail > 0 {
		k.fail--
		return errors.New("not now")
	}
	k.got[uid] = string(report)
	select {
	case k.news <- struct{}{}:
	default:
	}
	return nil
}

// run starts a holder and returns how to end it.
func run(t testing.TB, c Config) (end func() error) {
	t.Helper()
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c.ListenSSH, c.ListenHTTPS, c.Reread = "127.0.0.1:0", "127.0.0.1:0", 20*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	var once sync.Once
	var err error
	end = func() error { once.Do(func() { cancel(); err = <-done }); return err }
	t.Cleanup(func() { _ = end() })
	return end
}

func waitReady(t testing.TB, root, backup string, want string) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		got := "ready"
		err := Check(t.Context(), root, backup)
		if err != nil {
			got = err.Error()
		}
		if strings.Contains(got, want) && (want != "ready" || err == nil) { // and not "not ready"
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}

func report(t testing.TB, p *pod, state api.State) []byte {
	t.Helper()
	b, err := json.Marshal(&api.Report{Version: api.Version, ID: p.doc.ID, State: api.Serving, Backups: []api.BackupReport{{Name: "nightly", State: state}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDisks(t *testing.T) {
	p := newPod(t)
	l := p.listen()
	end := run(t, Config{Root: p.root, Backup: "nightly", Patience: patience})
	c, m := accept(t, l)
	h := m.Hello
	if h == nil || h.Token != "token" || string(h.JoinKey) != string(p.key) || h.Part.Backup != "nightly" || len(m.Files) != 2 {
		t.Fatalf("%+v with %d files", h, len(m.Files))
	}
	if d := h.Part.Disks; len(d) != 3 || d[0] != (session.Disk{Source: "disk.img"}) || d[1] != (session.Disk{Source: "data.qcow2", Format: "qcow2"}) ||
		!strings.Contains(d[2].Error, "no such file") {
		t.Errorf("disks %+v", d)
	}
	b := make([]byte, 6)
	for i, f := range m.Files {
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != "disk "+string(rune('0'+i)) {
			t.Errorf("file %d holds %q, %v", i, b, err)
		}
		if err := session.CheckDisk(f, api.Filesystem); err != nil {
			t.Error(err)
		}
	}
	send(t, c, &session.Message{Accepted: &session.Accepted{ID: p.doc.ID}})
	waitReady(t, p.root, "nightly", "the agent opens the session")
	send(t, c, &session.Message{Report: report(t, p, api.Waiting)})
	waitReady(t, p.root, "nightly", "Waiting")
	send(t, c, &session.Message{Report: report(t, p, api.Readable)})
	waitReady(t, p.root, "nightly", "ready")

	// The agent goes away and comes back: the same is handed over again.
	_ = c.Close()
	waitReady(t, p.root, "nightly", "connection")
	c, m = accept(t, l)
	if m.Hello == nil || len(m.Files) != 2 {
		t.Fatalf("%+v", m)
	}
	// It refuses, which is no reason to give up either.
	send(t, c, &session.Message{Refused: &session.Refused{Reason: "busy\nnow"}})
	waitReady(t, p.root, "nightly", "busy now")
	c, _ = accept(t, l)
	send(t, c, &session.Message{Accepted: &session.Accepted{ID: p.doc.ID}})

	// Told to end, it waits for the confirmation.
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	if m := receive(t, c); m.Closing == nil {
		t.Fatalf("%+v", m)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended without confirmation: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	send(t, c, &session.Message{Closed: &session.Closed{}})
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Check(t.Context(), p.root, "nightly"); err == nil {
		t.Error("a holder that has ended is ready")
	}
}

func TestNoConfirmation(t *testing.T) {
	p := newPod(t)
	l := p.listen()
	end := run(t, Config{Root: p.root, Backup: "nightly", Patience: 10 * time.Millisecond})
	c, _ := accept(t, l)
	send(t, c, &session.Message{Accepted: &session.Accepted{ID: p.doc.ID}})
	waitReady(t, p.root, "nightly", "opens")
	if err := end(); err == nil || !strings.Contains(err.Error(), "did not confirm") {
		t.Error(err)
	}
}

func TestFront(t *testing.T) {
	p := newPod(t)
	k := &kept{got: map[string]string{}, fail: 1, news: make(chan struct{}, 1)}
	run(t, Config{Root: p.root, Reporter: k})
	waitReady(t, p.root, "", "does not answer") // there is no agent yet
	l := p.listen()
	c, m := accept(t, l)
	h := m.Hello
	if h == nil || !h.SSH || !h.HTTPS || len(m.Files) != 2 || h.Part.Disks != nil {
		t.Fatalf("%+v with %d files", h, len(m.Files))
	}
	for _, f := range m.Files {
		if err := session.CheckListener(f); err != nil {
			t.Error(err)
		}
	}
	cr := h.Credentials
	if string(cr.HostKey) != "host" || string(cr.AuthorizedKeys) != "keys" || cr.TrustedCA != nil || string(cr.Password) != "secret" ||
		string(cr.PrivateKey) != "key" || len(cr.DiskKeys) != 1 || string(cr.DiskKeys["luks"]) != "open sesame" {
		t.Errorf("%+v", cr)
	}
	send(t, c, &session.Message{Accepted: &session.Accepted{ID: p.doc.ID}})
	send(t, c, &session.Message{Report: report(t, p, api.Waiting)})
	waitReady(t, p.root, "", "ready")
	<-k.news
	if !strings.Contains(k.got["u"], "nightly") {
		t.Errorf("reports kept: %v", k.got)
	}

	p.write(api.DirBrowser, map[string]string{api.KeyPassword: "another"})
	if m := receive(t, c); m.Update == nil || string(m.Update.Credentials.Password) != "another" {
		t.Fatalf("%+v", m)
	}
	// A half-written document changes nothing; another one is handed over anew.
	p.write(api.DirSession, map[string]string{api.KeySession: "{"})
	p.doc.Browser = nil
	p.writeDocument()
	if m := receive(t, c); m.Closing == nil {
		t.Fatalf("%+v", m)
	}
	send(t, c, &session.Message{Closed: &session.Closed{Reason: "as asked"}})
	if _, m := accept(t, l); m.Hello == nil || m.Hello.HTTPS || len(m.Files) != 1 || m.Hello.Credentials.Password != nil {
		t.Fatalf("%+v", m)
	}
}

func TestDocuments(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(*pod)
		want   string
	}{
		"no document":      {func(p *pod) { _ = os.Remove(filepath.Join(p.root, api.DirSession, api.KeySession)) }, "no such file"},
		"another key":      {func(p *pod) { p.write(api.DirIdentity, map[string]string{api.KeyJoin: strings.Repeat("j", 32)}) }, "do not belong together"},
		"a long key":       {func(p *pod) { p.write(api.DirIdentity, map[string]string{api.KeyJoin: strings.Repeat("k", 33)}) }, "more than 32"},
		"no token":         {func(p *pod) { _ = os.Remove(filepath.Join(p.root, api.DirToken, api.FileToken)) }, "no such file"},
		"no password":      {func(p *pod) { _ = os.Remove(filepath.Join(p.root, api.DirBrowser, api.KeyPassword)) }, "no such file"},
		"not in the paper": {func(p *pod) { p.doc.Backups[0].Name = "other"; p.writeDocument() }, ""},
	} {
		p := newPod(t)
		c.break_(p)
		h := &holder{Config: Config{Root: p.root}}
		if _, err := h.load(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		h.Backup = "nightly"
		if _, err := h.load(); name == "not in the paper" && err == nil {
			t.Errorf("%s: the backup is held", name)
		}
	}
}

// TestToldOnce: why a disk cannot be opened is logged once, until there is another reason or none.
func TestToldOnce(t *testing.T) {
	var log bytes.Buffer
	root := t.TempDir()
	h := &holder{Config: Config{Root: root, Log: slog.New(slog.NewTextHandler(&log, nil))}}
	r := &resources{disks: []disk{{Disk: api.Disk{Name: "d", Mode: api.Filesystem}}}}
	lines := func(text string, want int) {
		t.Helper()
		for range 3 {
			r.improve(h)
		}
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q is told %d times instead of %d:\n%s", text, n, want, log.String())
		}
	}
	const refused = "a disk cannot be opened"
	lines(refused, 1)
	dir := filepath.Join(root, api.Volume(0))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lines(refused, 2)
	lines("holds no disk.img", 1)
	if err := os.WriteFile(filepath.Join(dir, "disk.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lines("a disk is open now", 1)
	lines(refused, 2)
	r.closeDisks()
}

func TestOpenImage(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files []string // name, or name -> target
		want  string   // the file, or a part of the error
	}{
		"empty":                {nil, "holds no disk.img"},
		"one":                  {[]string{"a.raw", "lost+found"}, "a.raw"},
		"two":                  {[]string{"a.raw", "b.img"}, "2 image files"},
		"usual":                {[]string{"a.raw", "b.img", "disk.img"}, "disk.img"},
		"a link out":           {[]string{"disk.img -> " + secret}, "symbolic link"},
		"a link within":        {[]string{"a.raw", "disk.img -> a.raw"}, "symbolic link"},
		"a link as the only":   {[]string{"a.img -> " + secret}, "holds no disk.img"},
		"a link up":            {[]string{"disk.img -> ../../etc/passwd"}, "symbolic link"},
		"a folder as the only": {[]string{"a.img/"}, "holds no disk.img"},
	} {
		dir := t.TempDir()
		for _, f := range c.files {
			at, target, link := strings.Cut(f, " -> ")
			var err error
			switch {
			case link:
				err = os.Symlink(target, filepath.Join(dir, at))
			case strings.HasSuffix(at, "/"):
				err = os.Mkdir(filepath.Join(dir, at), 0o755)
			default:
				err = os.WriteFile(filepath.Join(dir, at), nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		f, _, err := openImage(dir)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = filepath.Base(f.Name())
			_ = f.Close()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
