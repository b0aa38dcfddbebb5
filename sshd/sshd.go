// Package sshd serves a tree by SFTP, scp and rsync over SSH: read-only, with public keys and user
// certificates only.
//
// SFTP and the old scp protocol are answered in process from the tree; rsync is the real program,
// which a Runner starts in a jail. Non-goals: no shell, no other command, no terminal, no
// forwarding of any kind, no writing. Each is refused with one line that says so. Invariants: memory is bounded for each connection,
// whatever the client does or does not read; a client that has not logged in holds a
// connection for LoginGrace at most; Serve returns only when every goroutine that touches the
// tree has ended, or says with ErrBusy that one has not.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/audit"
	"vmfr/agent/tree"
)

// Limits that apply where Config leaves a field zero.
const (
	// DefaultMaxConns bounds memory: a connection with a running transfer needs about 10 MiB.
	DefaultMaxConns = 64
	// DefaultMaxConnsPerAddr leaves room for several people behind one port-forward, which
	// all come from one address.
	DefaultMaxConnsPerAddr = 32
	// DefaultLoginGrace is how long a client may take to log in.
	DefaultLoginGrace = 30 * time.Second
	// DefaultShutdownGrace is how long transfers may go on after the server was told to stop;
	// the process has 10 s in all.
	DefaultShutdownGrace = 8 * time.Second
	// DefaultKeepalive is how often a silent client is asked for a sign of life; after
	// keepaliveMisses without an answer it is gone.
	DefaultKeepalive = 30 * time.Second
)

const (
	maxAuthTries    = 6
	maxSessions     = 10 // channels of one connection, as OpenSSH's MaxSessions
	maxHandles      = 256
	keepaliveMisses = 3
)

// ErrBusy reports reads that did not end although their connections were closed: the storage
// does not answer. The tree must not be closed then.
var ErrBusy = errors.New("ssh: reads of an image did not end in time")

// Runner runs rsync, which reads the same tree; see agent/jail.
type Runner interface {
	// Run runs args until the program or ctx ends and returns its exit status, -1 if it was
	// killed. An error, one line for the user, means that it was not run.
	Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (exit int, err error)
}

// Config is who may log in and what the server presents. User, HostKey and somebody who may log
// in, by AuthorizedKeys or TrustedUserCAs, are required.
type Config struct {
	User           string            // the only user name
	AuthorizedKeys []AuthorizedKey   // any of them logs in, see ParseAuthorizedKeys
	TrustedUserCAs []gossh.PublicKey // their certificates log in where User is a principal
	HostKey        gossh.Signer      // an ed25519 key
	Version        string            // of the program, shown to clients as vmfr_<Version>
	Rsync          Runner            // nil: rsync is refused
	Audit          *audit.Log        // nil: nothing is recorded
	Counters       *tree.Counters    // nil: nothing is counted
	Log            *slog.Logger      // nil: nothing is logged

	// Zero values stand for the Default constants.
	MaxConns        int
	MaxConnsPerAddr int
	LoginGrace      time.Duration
	ShutdownGrace   time.Duration
	Keepalive       time.Duration

	// IdleTimeout ends a connection on which nothing is asked or sent for this long; zero: never.
	IdleTimeout time.Duration
}

// notInVersion is what RFC 4253, section 4.2, does not allow in a software version.
var notInVersion = regexp.MustCompile(`[^!-,.-~]+`)

// complete checks c and fills in the defaults.
func (c Config) complete() (Config, error) {
	switch {
	case c.User == "":
		return c, errors.New("ssh: no user name is configured")
	case len(c.AuthorizedKeys) == 0 && len(c.TrustedUserCAs) == 0:
		return c, errors.New("ssh: no authorized key and no authority is configured, so nobody could log in")
	case c.HostKey == nil:
		return c, errors.New("ssh: no host key is configured")
	case c.HostKey.PublicKey().Type() != gossh.KeyAlgoED25519:
		return c, fmt.Errorf("ssh: the host key is of type %s; an ed25519 key is needed", c.HostKey.PublicKey().Type())
	case c.MaxConns < 0 || c.MaxConnsPerAddr < 0 || c.LoginGrace < 0 || c.ShutdownGrace < 0 || c.Keepalive < 0 || c.IdleTimeout < 0:
		return c, errors.New("ssh: a limit is negative")
	}
	for _, k := range c.AuthorizedKeys {
		if err := checkKey(k.Key); err != nil {
			return c, fmt.Errorf("ssh: authorized key: %w", err)
		}
	}
	for _, k := range c.TrustedUserCAs {
		if err := checkKey(k); err != nil {
			return c, fmt.Errorf("ssh: trusted authority: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	c.Version = notInVersion.ReplaceAllString(c.Version, "_")
	setDefault(&c.MaxConns, DefaultMaxConns)
	setDefault(&c.MaxConnsPerAddr, DefaultMaxConnsPerAddr)
	setDefault(&c.LoginGrace, DefaultLoginGrace)
	setDefault(&c.ShutdownGrace, DefaultShutdownGrace)
	setDefault(&c.Keepalive, DefaultKeepalive)
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Serve accepts connections on l until ctx ends and serves t to them. Then it closes l, lets
// open files be read on for the shutdown grace, closes what is left and returns nil when all
// connections have ended, or ErrBusy. Other errors are of the configuration or of l. Serve owns l.
func Serve(ctx context.Context, l net.Listener, t *tree.Tree, c Config) error {
	defer l.Close()
	c, err := c.complete()
	if err != nil {
		return err
	}
	c.Log.Info("ssh: serving", "address", l.Addr().String(), "hostKey", gossh.FingerprintSHA256(c.HostKey.PublicKey()))
	return newServer(t, c).run(ctx, l)
}
