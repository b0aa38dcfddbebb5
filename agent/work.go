package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/agent/image"
	"vmfr/agent/jail"
	"vmfr/agent/sandbox"
	"vmfr/agent/session"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	api "vmfr/api/session"
	"vmfr/fusefs"
	"vmfr/sshd"
)

// The hidden first arguments under which runWork runs: for the node's supervisor and for serve.
const (
	workCommand  = "work"
	localCommand = "work-local"
)

const (
	// configureLimit is how long a worker waits for each of the supervisor's first messages.
	configureLimit = 30 * time.Second
	// tellLimit bounds the sending of a message to the supervisor.
	tellLimit = 10 * time.Second
	// statsPeriod is how often the supervisor is told what is counted.
	statsPeriod = 2 * time.Second
)

// errGone tells that the supervisor has ended, or has no use for this worker any more.
var errGone = errors.New("the supervisor is gone")

// runWork is a worker's process: it was started in a sandbox, with its end of a socket pair as
// descriptor 3, and serves what it is given there until it is told to end. weaker are the layers
// of the sandbox that the kernel lacks.
func runWork(work func(conn *session.Conn, weaker []string, log *slog.Logger) error) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	probe(log, false)
	var weaker []string
	err := fusefs.Prepare()
	if err == nil {
		weaker, err = sandbox.Seal()
	}
	if err == nil {
		probe(log, true)
		var conn *session.Conn
		if conn, err = session.FileConn(os.NewFile(3, "supervisor")); err == nil {
			err = work(conn, weaker, log)
		}
	}
	if err != nil && !errors.Is(err, errGone) {
		log.Error("the worker ends", "err", err)
		return exitError
	}
	return 0
}

// assignment is what a worker serves.
type assignment struct {
	*session.Configure
	doc   *api.Session
	parts []session.Part
	files []*os.File // of all messages, in their order
}

// work receives the assignment, serves it and tells the supervisor about it.
func work(conn *session.Conn, weaker []string, log *slog.Logger) error {
	a, err := receive(conn)
	if err != nil {
		return err
	}
	tell := func(r *api.Report) error {
		r.Version, r.ID, r.Node, r.Restarts, r.Updated = api.Version, a.doc.ID, a.Node, a.Restarts, time.Now().UTC().Truncate(time.Second)
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return conn.Send(&session.Message{Report: b}, tellLimit)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	totals := &worker.Totals{}
	lender, err := a.appliances(conn, log)
	if err != nil {
		return err
	}
	go obey(ctx, conn, cancel, totals, lender)
	go count(ctx, conn, totals)
	cfg, err := a.config(log)
	if err == nil {
		cfg.Totals = totals
		cfg.Fallback, cfg.NoFallback, cfg.KeySource = lender.engine(), a.NoAppliance, keySecret
		n := &news{tell: tell, weakness: weakness(append(weaker, a.Weaker...))}
		cfg.Stalled = n.storage
		cfg.Ready = func(t *tree.Tree) error {
			first := reports(t.Backups())
			err := n.serving(first)
			go follow(ctx, t, first, n.serving)
			return err
		}
		err = errors.Join(worker.Run(ctx, cfg), cfg.Audit.Close())
	}
	if err != nil && ctx.Err() == nil {
		_ = tell(&api.Report{State: api.Failed, Message: api.Text(err.Error())})
	}
	return err
}

// news is what the supervisor is told of a worker that works.
type news struct {
	tell     func(*api.Report) error
	weakness string

	mu      sync.Mutex
	stalled string // disks whose storage does not answer
	state   api.State
	backups []api.BackupReport
}

// serving tells what was found.
func (n *news) serving(b []api.BackupReport) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state, n.backups = api.Serving, b
	return n.send()
}

// storage tells of storage, also before anything is served.
func (n *news) storage(stalls []worker.Stall) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stalled = worker.StallText(stalls)
	_ = n.send() // where that fails, the supervisor is gone
}

func (n *news) send() error {
	r := &api.Report{State: n.state, Backups: n.backups}
	if n.state == "" {
		r.State, r.Message = api.Waiting, cmp.Or(n.stalled, "the disks are being opened")
	} else if r.Message = n.weakness; n.stalled != "" {
		r.Message = strings.TrimPrefix(n.weakness+"; "+n.stalled, "; ")
	}
	r.Message = api.Text(r.Message)
	return n.tell(r)
}

// weakness tells what is missing around this worker.
func weakness(layers []string) string {
	if len(layers) == 0 {
		return ""
	}
	return api.Text("served with a weaker sandbox: " + strings.Join(layers, "; "))
}

// receive takes the supervisor's first messages.
func receive(conn *session.Conn) (*assignment, error) {
	a := &assignment{}
	for {
		m, err := conn.Receive(configureLimit)
		if errors.Is(err, io.EOF) {
			return nil, errGone
		}
		if err != nil {
			return nil, err
		}
		a.files = append(a.files, m.Files...)
		switch {
		case m.Configure != nil && a.Configure == nil:
			a.Configure = m.Configure
			if a.doc, err = api.Decode(m.Configure.Session); err != nil {
				return nil, err
			}
		case m.Part != nil && a.Configure != nil:
			a.parts = append(a.parts, *m.Part)
		case m.Run != nil && a.Configure != nil:
			return a, nil
		case m.Drain != nil:
			return nil, errGone
		default:
			return nil, errors.New("the supervisor's messages are in a wrong order")
		}
	}
}

// obey waits for the order to end, and answers pings. Without a supervisor a worker has nobody to
// serve for.
func obey(ctx context.Context, conn *session.Conn, cancel context.CancelCauseFunc, t *worker.Totals, l *lender) {
	var asked atomic.Bool
	for {
		m, err := conn.Receive(0)
		switch {
		case err != nil:
			os.Exit(0)
		case l.obey(m):
		case m.Drain != nil:
			cancel(nil)
		case m.Ping != nil && asked.CompareAndSwap(false, true):
			go func() {
				defer asked.Store(false)
				pong := &session.Pong{}
				if err := t.Probe(ctx); err != nil && ctx.Err() == nil {
					pong.Error = api.Text(err.Error())
				}
				_ = conn.Send(&session.Message{Pong: pong}, tellLimit)
			}()
		}
		m.Close()
	}
}

// count sends the totals.
func count(ctx context.Context, conn *session.Conn, t *worker.Totals) {
	tick := time.NewTicker(statsPeriod)
	defer tick.Stop()
	var last worker.Sums
	for ; ; <-tick.C { // also while transfers end
		s := t.Read()
		if s != last {
			last = s
			m := &session.Message{Stats: &session.Stats{ReadBytes: s.ReadBytes, Operations: s.Operations, Errors: s.Errors,
				Connections: s.Connections, OpenFiles: s.OpenFiles, Latency: s.Latency.Slice(), LatencyNanos: s.Latency.Nanos,
				StorageWait: s.StorageWait, Stalled: s.Stalled}}
			if conn.Send(m, tellLimit) != nil {
				return
			}
		}
		if ctx.Err() != nil && s.Connections == 0 {
			return
		}
	}
}

// next takes the next file.
func (a *assignment) next() *os.File {
	f := a.files[0] // the messages were checked to have as many as they announce
	a.files = a.files[1:]
	return f
}

// config makes a worker's configuration of the assignment.
func (a *assignment) config(log *slog.Logger) (cfg worker.Config, err error) {
	cfg = worker.Config{Version: a.Version, Log: log, Grace: a.Grace}
	var ssh, https net.Listener
	if a.SSH {
		if ssh, err = listener(a.next()); err != nil {
			return cfg, err
		}
	}
	if a.HTTPS {
		if https, err = listener(a.next()); err != nil {
			return cfg, err
		}
	}
	var rsync *jail.Jail
	if a.Rsync {
		rsync = jail.Adopt(a.next(), a.next())
	}
	if a.Audit {
		cfg.Audit = audit.New(a.next())
	}
	n := 0
	for _, p := range a.parts {
		b, err := a.backup(p)
		if err != nil {
			return cfg, err
		}
		n += len(b.Disks)
		cfg.Backups = append(cfg.Backups, b)
	}
	worker.LimitMemory(n)
	if ssh != nil {
		cfg.SSH, err = sshOf(&a.Credentials, ssh, func(err error) { log.Warn("a key was refused", "err", err) })
		if err != nil {
			return cfg, err
		}
		cfg.SSH.Jail = rsync
		if a.doc.SSH != nil {
			cfg.SSH.IdleTimeout = time.Duration(a.doc.SSH.IdleTimeout)
		}
	}
	if https != nil {
		cfg.HTTPS, err = httpsOf(&a.Credentials, https)
	}
	return cfg, err
}

func listener(f *os.File) (net.Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("a listener of the front holder: %w", err)
	}
	return l, f.Close()
}

// backup is one part's disks.
func (a *assignment) backup(p session.Part) (worker.Backup, error) {
	for _, b := range a.doc.Backups {
		if b.Name != p.Backup || len(b.Disks) != len(p.Disks) {
			continue
		}
		out := worker.Backup{Name: b.Name, VM: a.doc.VM.Name, Timestamp: b.Timestamp}
		for i, d := range p.Disks {
			k := worker.Disk{Name: b.Disks[i].Name, Source: d.Source, Format: image.Format(d.Format)}
			if d.Error == "" {
				k.File = a.next()
			} else {
				k.Err = errors.New(d.Error)
			}
			out.Disks = append(out.Disks, k)
		}
		return out, nil
	}
	return worker.Backup{}, fmt.Errorf("the session's document has no backup %q with %d disks", p.Backup, len(p.Disks))
}

// sshOf reads the credentials of SSH; refused is told which keys are not used.
func sshOf(c *session.Credentials, l net.Listener, refused func(error)) (*worker.SSH, error) {
	s := &worker.SSH{Listener: l, User: strings.TrimSpace(string(c.SSHUser))}
	var err error
	if s.HostKey, err = gossh.ParsePrivateKey(c.HostKey); err != nil {
		return nil, fmt.Errorf("%s: %w", api.KeyHostKey, err)
	}
	if len(c.AuthorizedKeys) > 0 {
		keys, bad, err := sshd.ParseAuthorizedKeys(c.AuthorizedKeys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", api.KeyAuthorizedKeys, err)
		}
		for _, r := range bad {
			refused(r)
		}
		s.AuthorizedKeys = keys
	}
	if len(c.TrustedCA) > 0 {
		if s.TrustedUserCAs, err = sshd.ParseTrustedUserCAs(c.TrustedCA); err != nil {
			return nil, fmt.Errorf("%s: %w", api.KeyTrustedCA, err)
		}
	}
	return s, nil
}

// httpsOf reads the credentials of the browser.
func httpsOf(c *session.Credentials, l net.Listener) (*worker.HTTPS, error) {
	s := &worker.HTTPS{Listener: l, User: strings.TrimSpace(string(c.BrowserUser))}
	var err error
	if s.Password, err = parsePassword(c.Password); err != nil {
		return nil, fmt.Errorf("%s: %w", api.KeyPassword, err)
	}
	if s.Certificate, err = tls.X509KeyPair(c.Certificate, c.PrivateKey); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", api.KeyCertificate, api.KeyPrivateKey, err)
	}
	return s, nil
}

// reports are what was found, for the controller.
func reports(backups []tree.BackupReport) (out []api.BackupReport) {
	for _, b := range backups {
		r := api.BackupReport{Name: b.Name, State: api.Failed}
		var why []string
		for _, d := range b.Disks {
			k := diskReport(d)
			if k.State == api.Readable {
				r.State = api.Readable
			} else {
				why = append(why, k.Name+": "+k.Message)
			}
			r.Disks = append(r.Disks, k)
		}
		if f := b.Fallback; f != nil && f.State != tree.FallbackReady {
			why = append(why, f.Standing())
		}
		if len(why) > 0 {
			r.Message = api.Text(strings.Join(why, "; "))
		}
		out = append(out, r)
	}
	return out
}

func diskReport(d tree.DiskReport) api.DiskReport {
	k := api.DiskReport{Name: d.Name, State: api.Readable, Format: api.Text(d.Format), Size: uint64(max(d.VirtualSize, 0))}
	if d.State == tree.StateUnreadable {
		k.State = api.Failed
	}
	text := d.Error
	if d.Advice != "" {
		text = strings.TrimSuffix(text, ".") + "; " + d.Advice
	}
	k.Message = api.Text(text)
	if k.State == api.Failed && k.Message == "" {
		k.Message = "nothing on it can be read"
	}
	for _, v := range d.Volumes {
		if len(k.Volumes) == api.MaxVolumes {
			break
		}
		x := api.VolumeReport{Name: api.Text(v.Name), Path: api.Text(v.Path)}
		if v.FileSystem != nil {
			x.Type, x.Engine = api.Text(v.FileSystem.Type), api.Text(v.FileSystem.Engine)
		}
		k.Volumes = append(k.Volumes, x)
	}
	return k
}
