// Package worker runs one session: opened image files become one tree, and the tree is served
// by SFTP, HTTPS and FUSE until the session ends.
//
//	files -> image -> tree -> { sshd, api/files, fusefs }
//
// Non-goals: it opens no path that a client or a guest names, makes no keys and keeps no state:
// whoever starts it hands over files, listening sockets and credentials. Invariants: Run
// returns only when every front end has ended, or when one did not for stopLimit; a front end
// that fails ends the others; the images are closed last, and never under a reader.
package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"vmfr/agent/audit"
	"vmfr/agent/engine"
	"vmfr/agent/jail"
	"vmfr/agent/tree"
	"vmfr/api/files"
	"vmfr/fusefs"
	"vmfr/sshd"
)

const (
	// grace is how long transfers may go on after the session was told to end.
	grace = 7 * time.Second
	// stopLimit is when Run gives up waiting for a front end, after the grace: a person's patience
	// is 10 s, and what is still reading then waits for storage that does not answer.
	stopLimit = 2500 * time.Millisecond
	// unmountLimit is how long another process may take to unmount what is served here: fusefs' grace
	// for users of the mount, and some time to notice the end.
	unmountLimit = 4 * time.Second
)

// ErrStuck reports that a front end did not end in time. The images are still open then; the
// process should exit.
var ErrStuck = errors.New("reads of an image did not end in time")

// Config is a session. At least one of SSH, HTTPS and Mount is set.
type Config struct {
	Backups []Backup
	Version string // of the program
	// Fallback reads what no native engine does; nil: nothing does. Its appliances end with Run.
	Fallback engine.Fallback
	// NoFallback and KeySource are texts for people, see tree.Config; empty: as the command line has it.
	NoFallback, KeySource string

	Log   *slog.Logger // nil: nothing is logged
	Audit *audit.Log   // nil: nothing is recorded

	SSH   *SSH   // nil: off
	HTTPS *HTTPS // nil: off
	Mount *Mount // nil: off

	// Grace is how long transfers may go on when the session was told to end; zero: 7 s.
	Grace time.Duration
	// Totals is filled in with what is counted; nil: not.
	Totals *Totals

	// Opened is called when all images are open, before anything in them is looked at; nil: not
	// called. An error ends Run.
	Opened func() error
	// Process is this process's /proc/PID/stat, for the metrics of a process that has no /proc;
	// nil: it has. Run takes it over.
	Process *os.File
	// Stalled is called with the disks whose storage does not answer, whenever these are others than
	// before, and before Ready, too; nil: not called.
	Stalled func([]Stall)
	// Ready is called once, when everything answers; nil: not called. An error ends Run.
	Ready func(*tree.Tree) error

	storage *storage // of Run
}

// SSH is where and for whom SFTP, scp and rsync are served. Run takes over the listener.
type SSH struct {
	Listener       net.Listener
	User           string
	AuthorizedKeys []sshd.AuthorizedKey
	TrustedUserCAs []gossh.PublicKey
	HostKey        gossh.Signer
	IdleTimeout    time.Duration // zero: none
	Jail           *jail.Jail    // nil: rsync is refused; Run takes it over
}

// HTTPS is where and for whom the file API is served. Run takes over the listener.
type HTTPS struct {
	Listener       net.Listener
	User, Password string
	Certificate    tls.Certificate
	// GetCertificate wins where it is set, see files.CertificateFiles.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Mount is where the tree is mounted by FUSE.
type Mount struct {
	Dir                string // empty
	AllowOther         bool
	DefaultPermissions bool
	// Device is the /dev/fuse of a mount at Dir that another process made and unmounts when this
	// one is to end; nil: Run mounts. Run takes it over.
	Device *os.File
}

// Options are for whoever makes the mount, which logs to log.
func (m *Mount) Options(log *slog.Logger) fusefs.Options {
	return fusefs.Options{AllowOther: m.AllowOther, DefaultPermissions: m.DefaultPermissions, Log: log}
}

// session is a running Config.
type session struct {
	cfg     Config
	disks   *Disks
	log     *slog.Logger
	mount   *fusefs.Server // nil: off
	jailed  *fusefs.Server // the mount that rsync reads; nil: off
	metrics *metrics
	ready   atomic.Bool
	stuck   atomic.Bool // a front end still reads from the images
	left    atomic.Bool // a mount may still be read, until this process ends
}

// Run opens the disks and serves them until ctx ends; then it stops accepting, lets transfers
// go on for a short time, unmounts, closes everything and returns nil. A mount that somebody
// else unmounts ends Run, also with nil, if it was the only front end. Errors: those of
// tree.New, the first front end's that fails, or ErrStuck.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = grace
	}
	defer closeListeners(cfg)
	if cfg.SSH == nil && cfg.HTTPS == nil && cfg.Mount == nil {
		return errors.New("nothing to do: no front end is configured")
	}
	cfg.storage = newStorage(cfg.Backups, cfg.Log)
	if cfg.Totals != nil {
		cfg.Totals.storage.Store(cfg.storage)
	}
	watching, end := context.WithCancel(context.WithoutCancel(ctx)) // also while transfers end
	defer end()
	go cfg.storage.watch(watching, cfg.Stalled)
	disks, err := Open(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to end before anything was served
		}
		return err
	}
	s := &session{cfg: cfg, disks: disks, log: cfg.Log}
	s.metrics = &metrics{disks: disks, panics: s.panics, process: cfg.Process, counters: map[frontEnd]*tree.Counters{}}
	err = s.run(ctx)
	if s.stuck.Load() {
		return errors.Join(ErrStuck, err)
	}
	if s.left.Load() {
		return err
	}
	return errors.Join(err, disks.Close())
}

// closeListeners closes what Run took over and no front end did; closing twice does nothing.
func closeListeners(cfg Config) {
	if cfg.SSH != nil {
		_ = cfg.SSH.Listener.Close()
		if cfg.SSH.Jail != nil {
			_ = cfg.SSH.Jail.Close()
		}
	}
	if cfg.HTTPS != nil {
		_ = cfg.HTTPS.Listener.Close()
	}
}

// run starts the front ends and waits for all of them.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	if m := s.cfg.Mount; m != nil {
		o := m.Options(s.log)
		o.Counters = s.count(frontFUSE)
		var err error
		if m.Device != nil {
			s.mount, err = fusefs.Serve(m.Device, s.disks.Tree, o)
		} else {
			s.mount, err = fusefs.Mount(m.Dir, s.disks.Tree, o)
		}
		if err != nil {
			return err
		}
		g.Go(func() error { return s.keepMount(gctx, cancel) })
	}
	if c := s.cfg.SSH; c != nil {
		counters := s.count(frontSFTP)
		runner := s.serveJail(gctx, g, c.Jail)
		g.Go(func() error { return s.serveSFTP(gctx, c, runner, counters) })
	}
	if c := s.cfg.HTTPS; c != nil {
		counters := s.count(frontHTTPS)
		metrics := s.metrics.handler(s.cfg.Version)
		g.Go(func() error { return s.serveHTTPS(gctx, c, counters, metrics) })
	}
	logDisks(s.log, s.disks.Tree.Backups()) // here, so that a mistake above is the only line of the log
	if s.cfg.Totals != nil {
		s.cfg.Totals.s.Store(s)
	}
	s.ready.Store(true) // before whoever is told asks
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(s.disks.Tree); err != nil {
			g.Go(func() error { return err })
		}
	}
	return s.wait(gctx, g)
}

func (s *session) serveSFTP(ctx context.Context, c *SSH, rsync sshd.Runner, counters *tree.Counters) error {
	err := sshd.Serve(ctx, c.Listener, s.disks.Tree, sshd.Config{
		User: c.User, AuthorizedKeys: c.AuthorizedKeys, TrustedUserCAs: c.TrustedUserCAs, HostKey: c.HostKey, Version: s.cfg.Version,
		Rsync: rsync, Audit: s.cfg.Audit, Counters: counters, Log: s.log, ShutdownGrace: s.cfg.Grace, IdleTimeout: c.IdleTimeout,
	})
	if c.Jail != nil {
		_ = c.Jail.Close() // and its mount ends, which serveJail waits for
	}
	if errors.Is(err, sshd.ErrBusy) {
		s.stuck.Store(true)
	}
	return err
}

// sshPort is where the session's tree is served by SSH; 0: nowhere.
func (s *session) sshPort() int {
	if s.cfg.SSH == nil {
		return 0
	}
	a, ok := s.cfg.SSH.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return a.Port
}

func (s *session) serveHTTPS(ctx context.Context, c *HTTPS, counters *tree.Counters, metrics http.Handler) error {
	err := files.Serve(ctx, c.Listener, s.disks.Tree, files.Config{
		User: c.User, Password: c.Password, Certificate: c.Certificate, GetCertificate: c.GetCertificate, Version: s.cfg.Version,
		Counters: counters, Logins: &s.metrics.logins, Metrics: metrics, Log: s.log, Limits: files.Limits{Grace: s.cfg.Grace},
		Audit: s.cfg.Audit, SSHPort: s.sshPort(),
		Ready: func() error {
			if !s.ready.Load() || ctx.Err() != nil {
				return errors.New("starting or stopping")
			}
			return nil
		},
	})
	if errors.Is(err, files.ErrBusy) {
		s.stuck.Store(true)
	}
	return err
}

// keepMount waits until the mount ends: by ctx, or because somebody unmounted it.
func (s *session) keepMount(ctx context.Context, endAll func()) error {
	select {
	case <-s.mount.Done():
		if s.cfg.SSH == nil && s.cfg.HTTPS == nil {
			s.log.Info("somebody unmounted, nothing is left to serve", "dir", s.cfg.Mount.Dir)
			endAll()
			return nil
		}
		s.log.Warn("somebody unmounted; the other front ends go on", "dir", s.cfg.Mount.Dir)
		<-ctx.Done()
		return nil
	case <-ctx.Done():
	}
	until, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if s.cfg.Mount.Device != nil {
		until, cancel := context.WithTimeout(until, unmountLimit)
		defer cancel()
		if s.mount.Wait(until) != nil {
			s.log.Warn("another mount namespace still has a copy of the mount; it ends with this process", "dir", s.cfg.Mount.Dir)
			s.left.Store(true)
		}
		return nil
	}
	if err := s.mount.Unmount(until); err != nil {
		select {
		case <-s.mount.Done():
		default:
			s.stuck.Store(true)
		}
		return err
	}
	return nil
}

// wait waits for the front ends, for stopLimit once they were told to end.
func (s *session) wait(ctx context.Context, g *errgroup.Group) error {
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	s.ready.Store(false)
	s.log.Info("ending; transfers may go on for a moment", "seconds", s.cfg.Grace.Seconds())
	t := time.NewTimer(s.cfg.Grace + stopLimit)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		s.stuck.Store(true)
		return nil
	}
}

// count returns new counters for a front end. All are made before the metrics are served.
func (s *session) count(f frontEnd) *tree.Counters {
	c := &tree.Counters{}
	s.metrics.counters[f] = c
	return c
}

// panics counts those that front ends caught themselves.
func (s *session) panics() (n uint64) {
	for _, m := range []*fusefs.Server{s.mount, s.jailed} {
		if m != nil {
			n += m.Panics()
		}
	}
	return n
}

// logDisks tells the administrator what people will not find.
func logDisks(log *slog.Logger, backups []tree.BackupReport) {
	for _, b := range backups {
		for _, d := range b.Disks {
			l := log.With("backup", b.Name, "disk", d.Name, "state", string(d.State))
			switch {
			case d.State == tree.StateReadable:
				l.Debug("disk opened")
			case d.Error != "":
				l.Warn("a disk is not fully readable", "err", d.Error, "advice", d.Advice)
			}
			for _, v := range d.Volumes {
				if v.Error != "" {
					l.Warn("a volume cannot be read", "volume", v.Name, "err", v.Error, "advice", v.Advice)
				}
			}
		}
	}
}
