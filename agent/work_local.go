package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/audit"
	"vmfr/agent/guestfs"
	"vmfr/agent/image"
	"vmfr/agent/jail"
	"vmfr/agent/session"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	api "vmfr/api/session"
	"vmfr/internal/cli"
)

// workLocal is the worker of serve: it gets files, listeners and credentials, and asks serve for
// the little that it cannot know beforehand.
func workLocal(conn *session.Conn, weaker []string, _ *slog.Logger) error {
	m, err := receiveLocal(conn)
	if err != nil {
		return err
	}
	if m.Local == nil {
		return errors.New("the first message is of another kind")
	}
	a := m.Local
	time.Local = time.FixedZone("", a.UTCOffset) // the sandbox has no file that tells it
	log, err := (&cli.LogFlags{Format: a.LogFormat, Level: a.LogLevel}).Logger(os.Stderr)
	if err != nil {
		return err
	}
	if err := conn.Send(&session.Message{Sealed: &session.Sealed{Weaker: weaker}}, tellLimit); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := &parent{conn: conn, answers: make(chan *session.Message)}
	cfg, err := p.config(a, m.Files, log)
	if err == nil {
		err = p.images(&cfg)
	}
	if errors.Is(err, errGone) {
		return err
	}
	if err != nil {
		return p.ended(err)
	}
	go p.obey(cancel)
	cfg.Fallback, cfg.NoFallback = p.lender.engine(), a.NoAppliance
	cfg.Opened = func() error { return conn.Send(&session.Message{Opened: &session.Opened{}}, tellLimit) }
	cfg.Ready = func(t *tree.Tree) error {
		r := &session.Ready{}
		r.Readable, r.Partial, r.Unreadable = tree.Summary(t.Backups())
		if a.Person {
			r.Summary, r.Example = summary(t), exampleFile(t)
		}
		return conn.Send(&session.Message{Ready: r}, tellLimit)
	}
	err = worker.Run(ctx, cfg)
	closeAudit(cfg.Audit, log)
	return p.ended(err)
}

func receiveLocal(conn *session.Conn) (*session.Message, error) {
	m, err := conn.Receive(configureLimit)
	if errors.Is(err, io.EOF) || err == nil && m.Drain != nil {
		return nil, errGone
	}
	return m, err
}

// parent is the worker's side of its connection to serve.
type parent struct {
	conn    *session.Conn
	lender  *lender // nil: there are no appliances
	asking  sync.Mutex
	answers chan *session.Message
	renewed atomic.Pointer[tls.Certificate] // nil: not yet
}

// ended tells why this worker ends, once.
func (p *parent) ended(err error) error {
	e := &session.Ended{}
	if err != nil {
		e.Error = api.Text(err.Error())
	}
	_ = p.conn.Send(&session.Message{Ended: e}, tellLimit)
	return nil // serve tells it
}

// config makes a worker's configuration of all but the images.
func (p *parent) config(a *session.Local, files []*os.File, log *slog.Logger) (cfg worker.Config, err error) {
	next := func() *os.File {
		f := files[0] // the message was checked to have as many as it announces
		files = files[1:]
		return f
	}
	cfg = worker.Config{Version: a.Version, Log: log}
	var ssh, https net.Listener
	if a.SSH {
		if ssh, err = listener(next()); err != nil {
			return cfg, err
		}
		if cfg.SSH, err = sshOf(&a.Credentials, ssh, func(error) {}); err != nil { // serve has told who is refused
			return cfg, err
		}
		cfg.SSH.IdleTimeout = a.IdleTimeout
	}
	if a.HTTPS {
		if https, err = listener(next()); err != nil {
			return cfg, err
		}
		if cfg.HTTPS, err = httpsOf(&a.Credentials, https); err != nil {
			return cfg, err
		}
		first := &cfg.HTTPS.Certificate
		cfg.HTTPS.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := p.renewed.Load(); c != nil {
				return c, nil
			}
			return first, nil
		}
	}
	if a.Mount != "" {
		cfg.Mount = &worker.Mount{Dir: a.Mount, DefaultPermissions: a.DefaultPermissions, Device: next()}
	}
	if a.Rsync {
		cfg.SSH.Jail = jail.Adopt(next(), next())
	}
	cfg.Process = next()
	if a.Audit {
		cfg.Audit = audit.New(p)
	}
	if a.Appliances > 0 {
		o := guestfs.Options{Log: log, Max: a.Appliances}
		for _, k := range a.DiskKeys {
			o.Keys = append(o.Keys, guestfs.Key{Disk: k.Disk, Secret: k.Secret})
		}
		p.lender, err = newLender(p.conn, o)
	}
	return cfg, err
}

// images takes the disks.
func (p *parent) images(cfg *worker.Config) error {
	n := 0
	for {
		m, err := receiveLocal(p.conn)
		if err != nil {
			return err
		}
		if m.Run != nil {
			worker.LimitMemory(n)
			return nil
		}
		for i, k := range m.Images {
			d := worker.Disk{Name: k.Disk, Source: k.Source, Format: image.Format(k.Format)}
			if d.File, err = named(m.Files[i], k.Source); err != nil {
				return err
			}
			if k.Beside {
				d.Dir = &beside{p, n, k.Source}
			}
			n++
			if last := len(cfg.Backups) - 1; last < 0 || cfg.Backups[last].Name != k.Backup {
				cfg.Backups = append(cfg.Backups, worker.Backup{Name: k.Backup, VM: k.VM, Timestamp: k.Timestamp})
			}
			b := &cfg.Backups[len(cfg.Backups)-1]
			b.Disks = append(b.Disks, d)
		}
	}
}

// named is f with the name that errors are to tell.
func named(f *os.File, name string) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// obey takes what serve says after Run. Without serve a worker has nobody to work for.
func (p *parent) obey(end context.CancelFunc) {
	for {
		m, err := p.conn.Receive(0)
		switch {
		case err != nil:
			os.Exit(0)
		case p.lender.obey(m):
		case m.Drain != nil:
			end()
		case m.Answer != nil:
			p.answers <- m
			continue
		case m.Update != nil:
			if c, err := tls.X509KeyPair(m.Update.Credentials.Certificate, m.Update.Credentials.PrivateKey); err == nil {
				p.renewed.Store(&c)
			}
		}
		m.Close()
	}
}

// ask sends a question and waits for its answer.
func (p *parent) ask(question *session.Message) (*os.File, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if err := p.conn.Send(question, tellLimit); err != nil {
		return nil, err
	}
	m := <-p.answers // or this process ends
	switch {
	case m.Answer.Errno != 0:
		return nil, syscall.Errno(m.Answer.Errno)
	case m.Answer.Error != "":
		return nil, errors.New(m.Answer.Error)
	case m.Answer.File:
		return m.Files[0], nil
	}
	return nil, nil
}

// Write has serve write lines of the audit log.
func (p *parent) Write(lines []byte) (n int, err error) {
	for n < len(lines) {
		part := lines[n:min(len(lines), n+session.MaxRecords)]
		if _, err := p.ask(&session.Message{Records: &session.Records{Lines: part}}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// beside is the folder of an image: serve opens what is in it.
type beside struct {
	p      *parent
	image  int
	source string
}

var _ image.Folder = (*beside)(nil)

// OpenFile opens a file for reading, whatever the flags.
func (b *beside) OpenFile(name string, _ int, _ fs.FileMode) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	if err := session.CheckBeside(name); err != nil {
		return fail(err)
	}
	f, err := b.p.ask(&session.Message{Beside: &session.Beside{Image: b.image, Name: name}})
	if err == nil && f == nil {
		err = errors.New("there is no answer")
	}
	if err != nil {
		return fail(err)
	}
	return named(f, filepath.Join(filepath.Dir(b.source), name))
}

// summary describes the disks for a person, within session.MaxSummary.
func summary(t *tree.Tree) string {
	var b strings.Builder
	for _, k := range t.Backups() {
		for _, d := range k.Disks {
			writeDisk(&b, k.Name, d)
		}
	}
	const more = "...\n"
	text := strings.ToValidUTF8(b.String(), "?")
	if len(text) > session.MaxSummary {
		text = text[:session.MaxSummary-len(more)]
		text = text[:strings.LastIndexByte(text, '\n')+1] + more
	}
	return text
}
