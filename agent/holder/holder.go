package holder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"time"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

const (
	// DefaultPatience is how long a holder that was told to end waits for the agent to close the
	// descriptors: less than the 30 s after which Kubernetes kills it.
	DefaultPatience = 25 * time.Second
	// DefaultReread is how often mounted documents are read again. The kubelet itself takes up to
	// a minute or two to change them.
	DefaultReread = 10 * time.Second
	// sendLimit bounds the sending of one message.
	sendLimit = 10 * time.Second
	// answerLimit bounds the wait for the agent's answer to a Hello: it asks the API server.
	answerLimit = 30 * time.Second
	// Waits between tries to connect: the first one, doubled up to the last one. An agent that is
	// upgraded is away for seconds, and clients are waiting.
	firstWait, lastWait = 100 * time.Millisecond, 5 * time.Second
)

// Reporter keeps the session's report where the controller finds it.
type Reporter interface {
	// Put replaces the report of the file restore with this UID.
	Put(ctx context.Context, uid string, report []byte) error
}

// Config is a holder.
type Config struct {
	Backup string // whose disks this holder holds; empty: the front
	Root   string // the folder that is looked at as the root directory; empty: that
	Log    *slog.Logger
	// Reporter keeps reports; nil: nobody does. The front's only.
	Reporter Reporter
	// ListenSSH and ListenHTTPS are addresses; empty: all of this pod's, at the usual ports.
	ListenSSH, ListenHTTPS string
	// Patience and Reread stand for the Default constants where they are zero.
	Patience, Reread time.Duration
}

func (c Config) path(name string) string { return filepath.Join(c.Root, name) }

// holder is a running Config.
type holder struct {
	Config
	state   state
	relay   *relay // nil: nobody keeps reports
	docs    *documents
	own     *resources
	lastLog string
}

// Run holds the part until ctx ends. The error is nil then, unless the agent did not confirm in
// time that it has closed the descriptors.
func Run(ctx context.Context, c Config) error {
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.Reread == 0 {
		c.Reread = DefaultReread
	}
	h := &holder{Config: c}
	h.Log = c.Log.With("part", session.Part{Backup: c.Backup}.Name())
	stop, err := h.state.serve(checkAddress(c.Root, c.Backup))
	if err != nil {
		return err
	}
	defer stop()
	if c.Reporter != nil && c.Backup == "" {
		h.relay = newRelay(c.Reporter, h.Log)
		defer h.relay.close()
	}
	h.own = &resources{}
	defer h.own.close()
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		began := time.Now()
		err := h.hold(ctx)
		if ctx.Err() != nil {
			return err
		}
		h.waitFor(err.Error())
		if time.Since(began) > 2*lastWait {
			wait = firstWait // it had worked
		}
		// Spread, so that the holders of a node do not all come at once.
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return nil
		}
	}
}

// waitFor tells, once for each reason, why the holder is not ready.
func (h *holder) waitFor(reason string) {
	h.state.set(false, reason)
	if reason != h.lastLog {
		h.Log.Info("waiting", "for", reason)
		h.lastLog = reason
	}
}

// hold connects once and stays until the connection or ctx ends. Its error is nil only if ctx
// ended and the agent has closed everything, or had nothing.
func (h *holder) hold(ctx context.Context) error {
	var err error
	if h.docs, err = h.load(); err != nil {
		return err
	}
	if err := h.own.open(h); err != nil {
		return err
	}
	c, err := h.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.Close()
	answered := h.limit(ctx, c)
	defer answered()
	hello := h.docs.hello
	hello.Part, hello.Listeners = h.own.part(h.Backup), h.own.listening()
	if err := c.Send(&session.Message{Hello: &hello, Files: h.own.files()}, sendLimit); err != nil {
		return fmt.Errorf("the node's agent: %w", err)
	}
	answer, err := c.Receive(answerLimit)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("the node's agent did not answer: %w", err)
	}
	answer.Close()
	switch {
	case answer.Refused != nil && ctx.Err() != nil:
		return nil
	case answer.Refused != nil:
		return fmt.Errorf("the node's agent refused: %s", oneLine(answer.Refused.Reason))
	case answer.Accepted == nil || answer.Accepted.ID != h.docs.session.ID:
		return errors.New("the node's agent gave a wrong answer")
	}
	answered() // from here on, stay tells what was not confirmed
	h.Log.Info("handed over", "session", h.docs.session.ID, "disks", len(hello.Part.Disks))
	h.lastLog = ""
	h.state.set(false, "the agent opens the session")
	return h.stay(ctx, c)
}

// limit closes the connection when ctx has ended and Patience is over, so that an agent that does
// not answer keeps nobody from ending; until the function that it returns is called.
func (h *holder) limit(ctx context.Context, c *session.Conn) (answered func()) {
	done, answered := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-ctx.Done():
		case <-done.Done():
			return
		}
		select {
		case <-time.After(h.Patience):
			_ = c.Close()
		case <-done.Done():
		}
	}()
	return answered
}

// connect is the way in to the node's agent.
func (h *holder) connect(ctx context.Context) (*session.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	path := filepath.Join(h.path(api.DirAgent), api.FileSocket)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("the node's agent does not answer at %s: is its pod running on this node? (%w)", path, err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("no unix socket")
	}
	return session.NewConn(u), nil
}

// stay relays reports and sends what changes until the connection or ctx ends.
func (h *holder) stay(ctx context.Context, c *session.Conn) error {
	messages, failed := make(chan *session.Message), make(chan error, 1)
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		for {
			m, err := c.Receive(0)
			if err != nil {
				failed <- err
				return
			}
			m.Close() // nobody sends files to a holder
			select {
			case messages <- m:
			case <-gone:
				return
			}
		}
	}()
	tick := time.NewTicker(h.Reread)
	defer tick.Stop()
	var limit <-chan time.Time
	end, closing := ctx.Done(), false
	leave := func() error {
		closing, end = true, nil
		limit = time.After(h.Patience)
		h.state.set(false, "ending")
		return c.Send(&session.Message{Closing: &session.Closing{}}, sendLimit)
	}
	for {
		select {
		case <-end:
			h.Log.Info("ending; waiting for the agent to close this part")
			if err := leave(); err != nil {
				return fmt.Errorf("the agent is gone, its end closes the descriptors: %w", err)
			}
		case <-limit:
			return fmt.Errorf("the agent did not confirm within %s that it closed the descriptors; the volumes may stay busy", h.Patience)
		case err := <-failed:
			if ctx.Err() != nil {
				return nil // an agent that ends closes everything
			}
			return fmt.Errorf("the connection to the node's agent ended: %w", err)
		case m := <-messages:
			if m.Closed != nil {
				if ctx.Err() != nil {
					h.Log.Info("the agent closed this part")
					return nil
				}
				return fmt.Errorf("the node's agent closed this part: %s", oneLine(m.Closed.Reason))
			}
			h.take(m)
		case <-tick.C:
			if closing {
				continue
			}
			again, err := h.refresh(c)
			if err != nil {
				return err
			}
			if again {
				if err := leave(); err != nil {
					return err
				}
			}
		}
	}
}

// take is what a holder does with a report.
func (h *holder) take(m *session.Message) {
	if m.Report == nil {
		return
	}
	r, err := api.DecodeReport(m.Report, h.docs.session.ID)
	if err != nil {
		h.Log.Warn("a report is not usable", "err", err)
		return
	}
	h.state.set(readiness(r, h.Backup))
	if h.relay != nil {
		h.relay.put(h.docs.session.UID, m.Report)
	}
}

// readiness is what a report says of one part.
func readiness(r *api.Report, backup string) (bool, string) {
	if backup == "" {
		return r.State == api.Serving, string(r.State) + ": " + r.Message
	}
	for _, b := range r.Backups {
		if b.Name == backup {
			// What cannot be read is told in the report; the holder has done its part.
			return b.State != api.Waiting, string(b.State) + ": " + b.Message
		}
	}
	return false, "the agent has not opened it yet"
}

// refresh reads the documents again. It sends credentials that changed; it returns true where
// the part must be handed over anew, because the session itself changed.
func (h *holder) refresh(c *session.Conn) (again bool, err error) {
	docs, err := h.load()
	if err != nil {
		h.Log.Warn("what was read before stays in use", "err", err)
		return false, nil
	}
	// A backup's holder has nothing to do with other backups.
	if h.Backup == "" && docs.hello.Session != h.docs.hello.Session || !slices.Equal(docs.disks, h.docs.disks) || string(docs.hello.JoinKey) != string(h.docs.hello.JoinKey) {
		h.Log.Info("the session's document changed: handing over anew")
		return true, nil
	}
	if h.own.improve(h) {
		h.Log.Info("a disk that could not be opened is there now: handing over anew")
		return true, nil
	}
	if h.Backup == "" && !docs.sameCredentials(h.docs) {
		h.Log.Info("credentials changed")
		if err := c.Send(&session.Message{Update: &session.Update{Credentials: docs.hello.Credentials}}, sendLimit); err != nil {
			return false, fmt.Errorf("the node's agent: %w", err)
		}
	}
	h.docs = docs
	return false, nil
}
