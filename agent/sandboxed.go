package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/sandbox"
	"vmfr/agent/session"
	"vmfr/agent/spawn"
	"vmfr/agent/worker"
	"vmfr/fusefs"
)

const (
	// endLimit is how long a worker that was told to end may take until it is killed: worker.Run's
	// own limits and a little more. A person's patience is 10 s.
	endLimit = 9700 * time.Millisecond
	// Waits before a worker that died is started again, doubled up to the last one, and how long one
	// must live for the wait to be the first one again.
	firstRestart, lastRestart, proven = 100 * time.Millisecond, 30 * time.Second, time.Minute
	// logRate is how many lines a worker may log in a second, after a burst.
	logRate, logBurst = 1000, 5000
	// certificateCheck is how often a certificate of the user's is looked at.
	certificateCheck = 5 * time.Second
	// firstUID is of the range of user ids that workers of serve have: each has one of its own, this
	// one and the process id of its serve, which the kernel keeps below 2^22. The node's are below.
	firstUID = 1900001000
)

// errNoSandbox tells that a worker could not be started in its sandbox, and nothing was given to it.
type errNoSandbox struct{ why error }

func (e errNoSandbox) Error() string {
	return "the worker's sandbox cannot be set up: " + e.why.Error()
}
func (e errNoSandbox) Unwrap() error { return e.why }

// sandboxed runs s in workers that see nothing of this machine. Other than an errNoSandbox, its
// errors are worker.Run's.
type sandboxed struct {
	*serving
	spawner *spawn.Spawner
	first   *spawn.Worker // started ahead; nil: used
	// appliances are for what no native engine reads; nil: there are none, and noAppliance says why.
	appliances  *appliances
	noAppliance string
	bare        sync.Once

	// What the workers' images asked for, by image and name. Only the first worker that opens all of
	// them may ask for more: from then on it reads what the guest wrote.
	asked  map[session.Beside]bool
	opened bool
	served bool // a worker was ready
}

// newSandboxed starts a worker, which makes its sandbox while the caller does other things. An
// errNoSandbox tells why there can be none.
func newSandboxed(s *serving) (*sandboxed, error) {
	if err := sandbox.Check(); err != nil {
		return nil, errNoSandbox{err}
	}
	b := &sandboxed{serving: s, spawner: spawn.New(), asked: map[session.Beside]bool{}, noAppliance: s.disks.fallback.none}
	if f := s.disks.fallback; f.none == "" {
		err := f.check()
		switch {
		case err == nil:
			b.appliances = newAppliances(f, b.spawner, s.log)
		case f.wanted:
			b.spawner.Close()
			return nil, fmt.Errorf("libguestfs cannot run in a jail: %w, and --sandbox off reads without one", err)
		default:
			s.log.Info("libguestfs is not used", "reason", err)
			b.noAppliance = "libguestfs reads this, and in the sandbox only with an appliance that was made before: `libguestfs-make-fixed-appliance " + f.appliance + "` makes one."
		}
	}
	var err error
	if b.first, err = b.start(); err != nil {
		b.spawner.Close()
		return nil, errNoSandbox{err}
	}
	return b, nil
}

// start starts a worker, which waits to be told what to serve.
func (b *sandboxed) start() (*spawn.Worker, error) {
	env := []string{"GOTRACEBACK=single"}
	for _, name := range []string{"GOMEMLIMIT", "GOGC", "GOMAXPROCS", "GODEBUG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return b.spawner.Worker(func(theirs *os.File) (*exec.Cmd, error) {
		return sandbox.New(sandbox.Options{UID: firstUID + os.Getpid(), Args: []string{"vmfr-agent", localCommand}, Env: env, Alone: true}, theirs)
	})
}

// close ends what was started ahead, waits for the appliances of workers that have ended, and ends
// the thread.
func (b *sandboxed) close() {
	if w := b.first; w != nil {
		_ = w.Process().Kill()
		_ = w.Conn.Close()
		_ = w.Log.Close()
		_ = w.Wait()
	}
	if b.appliances != nil {
		b.appliances.wg.Wait()
	}
	b.spawner.Close()
}

// run serves until ctx ends, starting a worker again that died.
func (b *sandboxed) run(ctx context.Context) error {
	for wait := firstRestart; ; wait = min(2*wait, lastRestart) {
		w, began := b.first, time.Now()
		b.first = nil
		var err error
		if w == nil {
			if w, err = b.start(); err != nil {
				err = errDied{err}
			}
		}
		if err == nil {
			err = b.live(ctx, w)
		}
		var died errDied
		if !errors.As(err, &died) || !b.served || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > proven {
			wait = firstRestart
		}
		b.log.Error("the worker ended unexpectedly and is started again", "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// errDied tells that a worker ended without a word.
type errDied struct{ why error }

func (e errDied) Error() string { return "the process that reads the images died: " + e.why.Error() }
func (e errDied) Unwrap() error { return e.why }

// life is one worker's.
type life struct {
	*sandboxed
	w      *spawn.Worker
	log    *workerLog
	mount  *fusefs.Mountpoint // nil: none
	sealed bool
	ended  *session.Ended
	stuck  atomic.Bool // it did not end in time
}

// live feeds a worker and answers it until it has ended.
func (b *sandboxed) live(ctx context.Context, w *spawn.Worker) error {
	l := &life{sandboxed: b, w: w, log: newWorkerLog(b.stderr)}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		spawn.Lines(w.Log, l.log.line)
	}()
	err := l.feed()
	gone := make(chan struct{})
	if err == nil {
		end := l.endWith(ctx, gone)
		err = l.listen()
		close(gone)
		end()
	}
	_ = w.Conn.Close() // which ends the worker, too
	if l.ended == nil && ctx.Err() == nil {
		_ = w.Process().Kill() // it broke the rules, or the feeding did
	}
	kill := time.AfterFunc(time.Second, func() { _ = w.Process().Kill() })
	died := w.Wait()
	kill.Stop()
	<-logged
	_ = w.Log.Close()
	if l.mount != nil { // where the worker died, or did not see to it
		if uerr := l.mount.Unmount(context.Background()); err == nil {
			err = uerr
		}
	}
	switch {
	case l.ended != nil && l.ended.Error != "":
		return errors.New(l.ended.Error)
	case l.ended != nil, ctx.Err() != nil && err == nil && !l.stuck.Load():
		return err
	case !l.sealed && !l.served && err == nil: // a later one must not lead to less than the first had
		return errNoSandbox{errors.New(l.log.last())}
	case l.stuck.Load():
		return worker.ErrStuck
	case err != nil:
		return err
	case died == nil:
		died = errors.New("it said nothing")
	}
	return errDied{died}
}

// feed gives the worker all that it serves.
func (l *life) feed() error {
	_, offset := time.Now().Zone()
	m := &session.Local{
		Version: version, Listeners: session.Listeners{SSH: l.listeners.ssh != nil, HTTPS: l.listeners.https != nil},
		DefaultPermissions: l.flags.mount.defaultPermissions, Credentials: l.credentials, IdleTimeout: l.flags.ssh.idleTimeout,
		NoAppliance: l.noAppliance, LogFormat: l.flags.log.Format, LogLevel: l.flags.log.Level, Audit: l.records != nil, Person: !l.flags.json, UTCOffset: offset,
	}
	if a := l.appliances; a != nil {
		m.Appliances = cap(a.uids)
		for _, k := range a.keys {
			m.DiskKeys = append(m.DiskKeys, session.DiskKey{Disk: k.Disk, Secret: k.Secret})
		}
	}
	var files, ours []*os.File
	defer func() {
		for _, f := range ours {
			_ = f.Close()
		}
	}()
	own := func(f *os.File, err error) error {
		if err == nil {
			files, ours = append(files, f), append(ours, f)
		}
		return err
	}
	for _, x := range []net.Listener{l.listeners.ssh, l.listeners.https} {
		if t, ok := x.(*net.TCPListener); ok {
			if err := own(t.File()); err != nil {
				return err
			}
		}
	}
	// The jail's starter has its own mounts: a copy of this one would keep it.
	jailed := l.jail()
	if jailed != nil {
		defer func() { _ = jailed.Detach() }() // with the worker it ends
	}
	if mount := l.flags.mount.config(); mount != nil {
		at, device, err := fusefs.Attach(mount.Dir, mount.Options(l.serving.log))
		if err != nil {
			return err
		}
		l.mount, m.Mount = at, mount.Dir
		_ = own(device, nil)
	}
	if jailed != nil {
		socket, device := jailed.Files()
		files, m.Rsync = append(files, socket, device), true
	}
	if err := own(os.Open(fmt.Sprintf("/proc/%d/stat", l.w.Process().Pid))); err != nil {
		return err
	}
	for _, message := range append([]*session.Message{{Local: m, Files: files}}, l.images()...) {
		if err := l.w.Conn.Send(message, tellLimit); err != nil {
			return l.died(err)
		}
	}
	return nil
}

// died is nil where an error of the connection only tells that the worker has ended.
func (l *life) died(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("the worker: %w", err)
}

// images are the messages that bring the disks, and Run.
func (s *serving) images() (out []*session.Message) {
	var m *session.Message
	for _, b := range s.disks.backups {
		for _, d := range b.Disks {
			if m == nil || len(m.Images) == session.MaxFiles {
				m = &session.Message{}
				out = append(out, m)
			}
			m.Images = append(m.Images, session.LocalImage{
				Backup: b.Name, VM: b.VM, Timestamp: b.Timestamp, Disk: d.Name, Source: strings.ToValidUTF8(d.Source, "?"), Format: string(d.Format), Beside: d.Dir != nil,
			})
			m.Files = append(m.Files, d.File)
		}
	}
	return append(out, &session.Message{Run: &session.Run{}})
}

// endWith tells the worker to end when ctx does, and unmounts. The returned function waits for it.
func (l *life) endWith(ctx context.Context, gone <-chan struct{}) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		renew := time.NewTicker(certificateCheck)
		defer renew.Stop()
		for {
			select {
			case <-gone:
				return
			case <-renew.C:
				l.renew()
				continue
			case <-ctx.Done():
			}
			break
		}
		_ = l.w.Conn.Send(&session.Message{Drain: &session.Drain{}}, tellLimit)
		if l.mount != nil {
			wg.Go(func() { _ = l.mount.Unmount(context.Background()) }) // tried again, and told, after the worker's end
		}
		select {
		case <-gone:
		case <-time.After(endLimit):
			l.stuck.Store(true)
			_ = l.w.Process().Kill()
		}
	})
	return wg.Wait
}

// renew sends the certificate of --tls-cert if it is another one.
func (l *life) renew() {
	if l.getCertificate == nil {
		return
	}
	c, err := l.getCertificate(nil)
	if err != nil {
		return
	}
	next := l.credentials
	if next.Certificate, next.PrivateKey, err = encodeCertificate(c); err != nil || slices.Equal(next.Certificate, l.credentials.Certificate) {
		return
	}
	l.credentials = next
	_ = l.w.Conn.Send(&session.Message{Update: &session.Update{Credentials: session.Credentials{Certificate: next.Certificate, PrivateKey: next.PrivateKey}}}, tellLimit)
}

// encodeCertificate is c as PEM.
func encodeCertificate(c *tls.Certificate) (cert, key []byte, err error) {
	for _, der := range c.Certificate {
		cert = append(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate's key: %w", err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
