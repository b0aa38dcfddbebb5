package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vmfr/agent/sandbox"
	"vmfr/agent/session"
	"vmfr/agent/spawn"
	api "vmfr/api/session"
)

// Limits of what holders can use. A flood of connections costs its sender's patience, not other
// sessions.
const (
	// maxConnections are open at once: the holders of DefaultMaxSessions sessions with six parts.
	maxConnections = 512
	// maxHandshakes are those of them that have not proved yet who they are.
	maxHandshakes = 32
	// connectionRate is how many connections are looked at in a second, after a burst.
	connectionRate, connectionBurst = 50, 200
	// messageRate is how many messages a holder may send in a second, after a burst. It sends one
	// when a Secret changes.
	messageRate, messageBurst = 1, 10

	// DefaultMaxSessions and DefaultMaxDescriptors are for the node; perNamespace sessions may
	// begin with a holder of one namespace, so that one tenant cannot take all of them.
	DefaultMaxSessions    = 64
	DefaultMaxDescriptors = 4096
	perNamespace          = 16
	// namespaceShare is the part of the descriptors that one namespace's sessions may have: a half.
	namespaceShare = 2

	// DefaultPatience is for a busy node, and short beside what a person waits for.
	DefaultPatience = 30 * time.Second

	// DefaultReturning is as long as most holders take to come back to a new agent.
	DefaultReturning = 5 * time.Second

	// helloLimit is how long a new connection may take to say who it is, and hurryAfter where
	// others wait for its place.
	helloLimit, hurryAfter = 10 * time.Second, 500 * time.Millisecond
	// reviewLimit bounds a TokenReview.
	reviewLimit = 15 * time.Second
	// sendLimit bounds the sending of one message.
	sendLimit = 10 * time.Second
)

// Config is a node's agent.
type Config struct {
	Dir     string // of the socket and nothing else
	Node    string // its name in Kubernetes; empty: not checked against tokens
	Version string // of the program
	Review  Reviewer
	Log     *slog.Logger

	// FirstUID and UIDs are the range of user ids of workers.
	FirstUID, UIDs int
	// Worker are the arguments of this program that run a worker.
	Worker []string
	// Rsync starts a jail for rsync, its process by start; nil: rsync is refused.
	Rsync func(start func(*exec.Cmd) error) (Jail, error)
	// Appliances read what no worker does; nil: nothing does, for the reason and with the advice
	// in NoAppliances.
	Appliances   *Appliances
	NoAppliances string

	// Audit keeps the workers' audit lines; nil: they write none.
	Audit *AuditLog

	MaxSessions, MaxDescriptors int // zero: the Default constants
	// Returning is how long after its start an agent waits for all parts of a session before it serves
	// some: they had holders before, who come back one after the other, and clients would miss files.
	// Zero: DefaultReturning.
	Returning time.Duration
	// Patience is how long a worker may leave its probes without an answer; zero:
	// DefaultPatience.
	Patience time.Duration
}

// Jail is a started jail for rsync, see agent/jail. Close gives up the caller's descriptors.
type Jail interface {
	Files() (socket, device *os.File)
	PID() int // of the process that all runs are started by
	Close() error
}

// Supervisor is a running Config.
type Supervisor struct {
	cfg     Config
	log     *slog.Logger
	spawn   *spawn.Spawner
	command func(uid int, socket *os.File) (*exec.Cmd, error) // of a worker
	groups  *groups
	metrics *metrics
	uids    chan int
	began   time.Time // the serving
	places  places    // of appliances

	mu       sync.Mutex
	sessions map[string]*sess
	conns    map[*session.Conn]bool
	silent   map[*session.Conn]time.Time // when those came that have not said who they are
	files    int                         // descriptors held for holders
	taken    map[string]int              // the same by the namespace that a session was begun from
	stopping bool

	handshakes chan struct{}
	serving    atomic.Bool
	wg         sync.WaitGroup // connections and workers
}

// New checks that this process can do what it is for.
func New(cfg Config) (*Supervisor, error) {
	s, err := newSupervisor(cfg)
	if err != nil {
		return nil, err
	}
	if err := sandbox.Check(); err != nil {
		return nil, err
	}
	s.command = func(uid int, socket *os.File) (*exec.Cmd, error) {
		return sandbox.New(sandbox.Options{UID: uid, Args: cfg.Worker, Env: []string{"GOTRACEBACK=single"}}, socket)
	}
	return s, nil
}

// newSupervisor is New without the means to start workers.
func newSupervisor(cfg Config) (*Supervisor, error) {
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.Appliances == nil && cfg.NoAppliances == "" {
		cfg.NoAppliances = "libguestfs reads this, and this node's agent has none."
	}
	if cfg.MaxDescriptors == 0 {
		cfg.MaxDescriptors = DefaultMaxDescriptors
	}
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.Returning == 0 {
		cfg.Returning = DefaultReturning
	}
	switch {
	case cfg.Review == nil || cfg.Log == nil || len(cfg.Worker) == 0:
		return nil, errors.New("supervisor: Review, Log and Worker are needed")
	case cfg.FirstUID < 1000 || cfg.UIDs < 2 || cfg.FirstUID > 1<<31-1-cfg.UIDs:
		return nil, fmt.Errorf("user ids %d to %d: a range of at least two above the system's is needed", cfg.FirstUID, cfg.FirstUID+cfg.UIDs-1)
	}
	s := &Supervisor{
		cfg: cfg, log: cfg.Log, sessions: map[string]*sess{}, taken: map[string]int{}, conns: map[*session.Conn]bool{}, uids: make(chan int, cfg.UIDs),
		handshakes: make(chan struct{}, maxHandshakes), silent: map[*session.Conn]time.Time{},
	}
	for i := range cfg.UIDs {
		s.uids <- cfg.FirstUID + i
	}
	s.metrics = newMetrics(s)
	if a := cfg.Appliances; a != nil {
		s.places = places{max: a.Max, turn: turn, ask: (*appliance).makeRoom}
		s.metrics.registry.MustRegister(&s.places)
	}
	return s, nil
}

// Run listens until ctx ends; then all workers end, and holders are told to come back.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	l, unlock, err := listen(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	defer l.Close()
	s.spawn = spawn.New()
	defer s.spawn.Close()
	if s.groups, err = newGroups(); err != nil {
		s.log.Warn("workers have no memory limit of the kernel's, only Go's own", "err", err)
	}
	for _, old := range s.groups.leftovers() {
		s.wg.Go(func() { old.remove(removeLimit) })
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	s.began = time.Now()
	s.serving.Store(true)
	s.log.Info("waiting for holders", "socket", l.Addr().String())
	err = s.accept(ctx, l)
	s.serving.Store(false)
	s.stop()
	return err
}

// listen takes the socket over, also from a predecessor that was killed.
func listen(dir string) (*net.UnixListener, func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	unlock := func() { _ = lock.Close() }
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unlock()
		return nil, nil, fmt.Errorf("%s: another agent runs on this node and has not ended yet: %w", dir, err)
	}
	path := filepath.Join(dir, api.FileSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		unlock()
		return nil, nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		// Whoever has the folder may connect; what it may then do, its token and key decide.
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return l, unlock, nil
}

// raiseFileLimit makes room for the descriptors of all sessions.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

func (s *Supervisor) accept(ctx context.Context, l *net.UnixListener) error {
	limit := rate.NewLimiter(connectionRate, connectionBurst)
	for {
		if err := limit.Wait(ctx); err != nil {
			return nil
		}
		if !s.admit(ctx) {
			return nil
		}
		c, err := l.AcceptUnix()
		if err != nil {
			<-s.handshakes
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ENOMEM) {
				s.log.Warn("a connection could not be accepted", "err", err)
				continue // and the limiter slows this down
			}
			return fmt.Errorf("%s: %w", l.Addr(), err)
		}
		conn := session.NewConn(c)
		if !s.enter(conn) {
			<-s.handshakes
			_ = conn.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.leave(conn)
			s.talk(ctx, conn)
		})
	}
}

// enter counts a connection; it refuses one too many.
func (s *Supervisor) enter(c *session.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || len(s.conns) >= maxConnections {
		return false
	}
	s.conns[c] = true
	s.silent[c] = time.Now()
	return true
}

// admit waits for one of the places of handshakes.
func (s *Supervisor) admit(ctx context.Context) bool {
	for {
		select {
		case s.handshakes <- struct{}{}:
			return true
		default:
			s.hurry()
		}
		select {
		case s.handshakes <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(hurryAfter / 10):
		}
	}
}

// hurry ends the oldest handshake whose holder has said nothing since hurryAfter, so that those
// who only connect do not keep others waiting for as long as they may.
func (s *Supervisor) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *session.Conn
	for c, since := range s.silent {
		if time.Since(since) > hurryAfter && (oldest == nil || since.Before(s.silent[oldest])) {
			oldest = c
		}
	}
	if oldest != nil {
		go func() { _ = oldest.Close() }() // what its socket holds may keep who closes it
		delete(s.silent, oldest)
	}
}

// spoke is called when a holder has said who it is.
func (s *Supervisor) spoke(c *session.Conn) {
	s.mu.Lock()
	delete(s.silent, c)
	s.mu.Unlock()
}

func (s *Supervisor) leave(c *session.Conn) {
	_ = c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	delete(s.silent, c)
	s.mu.Unlock()
}

// stop ends all sessions, tells holders to come back, and waits.
func (s *Supervisor) stop() {
	s.mu.Lock()
	s.stopping = true
	var all []*sess
	for _, x := range s.sessions {
		all = append(all, x)
	}
	s.mu.Unlock()
	for _, x := range all {
		x.endAll(errStopping.Error())
	}
	for _, x := range all {
		<-x.over
	}
	s.mu.Lock()
	for c := range s.conns {
		go func() { _ = c.Close() }()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// reserve counts descriptors that are going to be held for a session that was begun from a namespace; it
// refuses too many, on the node and for one namespace.
func (s *Supervisor) reserve(namespace string, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files+n > s.cfg.MaxDescriptors {
		return fmt.Errorf("this node's agent holds %d descriptors of at most %d; end other file restores on this node", s.files, s.cfg.MaxDescriptors)
	}
	if share := s.cfg.MaxDescriptors / namespaceShare; s.taken[namespace]+n > share {
		return fmt.Errorf("this node's agent holds %d descriptors for sessions of the namespace %s, of at most %d; end other file restores of it", s.taken[namespace], namespace, share)
	}
	s.files += n
	s.taken[namespace] += n
	return nil
}

func (s *Supervisor) release(namespace string, n int) {
	s.mu.Lock()
	s.files -= n
	if s.taken[namespace] -= n; s.taken[namespace] == 0 {
		delete(s.taken, namespace)
	}
	s.mu.Unlock()
}
