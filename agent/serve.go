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
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vmfr/agent/audit"
	"vmfr/agent/jail"
	"vmfr/agent/session"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/api/files"
	"vmfr/internal/cli"
)

// serveFlags are those of serve.
type serveFlags struct {
	disks                    diskFlags
	log                      cli.LogFlags
	listenSSH, listenHTTPS   string
	ssh                      sshFlags
	sandbox                  sandboxFlag
	user                     string
	authorizedKeys, password string // files
	auditLog                 string
	tlsCert, tlsKey          string // files
	state                    string
	mount                    mountFlags
	json                     bool
}

// off is the listen address of a front end that is not wanted.
const off = "off"

func serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve [--disk BACKUP/DISK=PATH]... [--dir DIR] [--sample]",
		Short: "Serve the files of disk images by SFTP, HTTPS and FUSE",
		Long: "Serves the files of disk images by SFTP, HTTPS and, with --mount, by FUSE, on this machine only\n" +
			"unless told otherwise. When all is ready, it prints what it serves and commands to paste, or\n" +
			"with --json one line for a program. It serves until SIGINT or SIGTERM: then it accepts no more,\n" +
			"lets transfers finish within 10 seconds, unmounts and ends; a second signal ends it at once.\n\n" +
			"As root it reads the images in a process of its own without rights, files and network, and starts\n" +
			"that again if it dies. Where that is not possible, the log says why; see --sandbox.\n\n" +
			diskHelp + "\n\n" +
			"Keys:\n" +
			"  The state folder (mode 0700) keeps what is made at the first start: a key pair for clients,\n" +
			"  a password, the SSH host key, a certificate authority with the server's certificate, and a\n" +
			"  known_hosts file, so that nobody has to turn off the check of the host key.\n" +
			"  --authorized-keys, --trusted-user-ca and --password-file replace the client's key and the password.",
		Example: "  vmfr-agent serve --sample\n" +
			"  vmfr-agent serve --disk nightly-0412/rootdisk=fedora.qcow2 --disk nightly-0413/rootdisk=disk.raw\n" +
			"  vmfr-agent serve --dir /backups --vm shop --timestamp nightly-0412=2026-04-12T02:00:00Z\n" +
			"  vmfr-agent serve --dir /backups --mount /mnt --listen-https off\n" +
			"  vmfr-agent serve --dir /backups --listen-ssh 127.0.0.1:0 --listen-https 127.0.0.1:0 --json",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.SortFlags = false
	f.disks.register(flags)
	flags.StringVar(&f.listenSSH, "listen-ssh", "127.0.0.1:2222", "`ADDRESS:PORT` for SFTP, scp and rsync; port 0: any free one; off: none")
	flags.StringVar(&f.listenHTTPS, "listen-https", "127.0.0.1:8443", "`ADDRESS:PORT` for HTTPS; port 0: any free one; off: none")
	flags.StringVar(&f.user, "user", "oadp", "the `NAME` that clients log in with")
	flags.StringVar(&f.authorizedKeys, "authorized-keys", "", "`FILE` of public keys that may log in, instead of the generated one")
	f.ssh.register(flags)
	flags.StringVar(&f.password, "password-file", "", "`FILE` with the password for HTTPS (mode 0600), instead of the generated one")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "`FILE` with the certificate chain for HTTPS (PEM), instead of the generated one; read again when it changes")
	flags.StringVar(&f.tlsKey, "tls-key", "", "`FILE` with the key of --tls-cert (PEM)")
	flags.StringVar(&f.state, "state", "", "`DIR` for generated keys (default $XDG_STATE_HOME/vmfr or ~/.local/state/vmfr)")
	flags.StringVar(&f.auditLog, "audit-log", "", "append a line of JSON for each login, listing and read to `FILE`; -: standard output")
	f.sandbox.register(flags)
	f.mount.registerDir(flags)
	f.mount.register(flags)
	flags.BoolVar(&f.json, "json", false, "when ready, print one line of JSON instead of text")
	f.log.Register(flags)
	return c
}

// access is what clients need to know to log in.
type access struct {
	state     state
	hostKey   gossh.PublicKey
	generated bool   // the state folder's client key logs in
	password  string // file
}

// serving is what serve has opened and made before anything is served.
type serving struct {
	flags       *serveFlags
	log         *slog.Logger
	out, stderr io.Writer
	disks       *openedDisks
	listeners   listeners
	records     *os.File // the audit log; nil: none
	access      access
	credentials session.Credentials
	sandbox     readySandbox
	// getCertificate is of the user's own certificate; nil: the one of the credentials.
	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

func (f *serveFlags) run(c *cobra.Command) error {
	log, err := f.log.Logger(c.ErrOrStderr())
	if err != nil {
		return err
	}
	if f.listenSSH == off && f.listenHTTPS == off && f.mount.dir == "" {
		return cli.Usagef("nothing to serve by: leave --listen-ssh or --listen-https on, or give --mount DIR")
	}
	if !plainWord(f.user) || strings.Contains(f.user, "/") {
		return cli.Usagef("--user %q: use letters, digits, '-', '_' and '.'", f.user)
	}
	if err := errors.Join(f.ssh.check(), f.sandbox.check()); err != nil {
		return err
	}
	s := &serving{flags: f, log: log, out: c.OutOrStdout(), stderr: c.ErrOrStderr()}
	if s.disks, err = f.disks.open(log); err != nil {
		return err
	}
	defer s.disks.close()
	worker.LimitMemory(s.disks.count)
	if s.records, err = f.openAudit(); err != nil {
		return err
	}
	if s.listeners, err = f.listen(); err != nil {
		return err
	}
	defer s.listeners.close()
	return f.sandbox.run(c.Context(), s)
}

// here serves in this process.
func (s *serving) here(ctx context.Context, told func()) error {
	cfg, err := s.disks.config(s.log)
	if err != nil {
		return err
	}
	cfg.Mount = s.flags.mount.config()
	if s.records != nil {
		cfg.Audit = audit.To(s.records)
		defer func() { closeAudit(cfg.Audit, s.log) }()
	}
	if s.listeners.ssh != nil {
		if cfg.SSH, err = sshOf(&s.credentials, s.listeners.ssh, func(error) {}); err != nil {
			return err
		}
		cfg.SSH.IdleTimeout, cfg.SSH.Jail = s.flags.ssh.idleTimeout, s.jail()
	}
	if s.listeners.https != nil {
		if cfg.HTTPS, err = httpsOf(&s.credentials, s.listeners.https); err != nil {
			return err
		}
		cfg.HTTPS.GetCertificate = s.getCertificate
	}
	cfg.Ready = func(t *tree.Tree) error {
		told()
		if s.flags.json {
			return s.tell("", "")
		}
		return s.tell(summary(t), exampleFile(t))
	}
	return worker.Run(ctx, cfg)
}

// jail starts the jail for rsync; nil where there is none.
func (s *serving) jail() *jail.Jail {
	if s.listeners.ssh == nil {
		return nil
	}
	return s.flags.ssh.jail(s.log)
}

// tell prints what is served: disks describes them and example is a file on them.
func (s *serving) tell(disks, example string) error {
	r := s.newReady()
	if s.flags.json {
		return r.writeJSON(s.out)
	}
	return r.writeText(s.out, disks, example, s.disks.story)
}

// listeners are the sockets; nil where a front end is off.
type listeners struct{ ssh, https net.Listener }

func (l listeners) close() {
	for _, x := range []net.Listener{l.ssh, l.https} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// listen opens the sockets.
func (f *serveFlags) listen() (l listeners, err error) {
	if l.ssh, err = listen("--listen-ssh", f.listenSSH); err != nil {
		return l, err
	}
	if l.https, err = listen("--listen-https", f.listenHTTPS); err != nil {
		l.close()
	}
	return l, err
}

func listen(flag, addr string) (net.Listener, error) {
	if addr == off {
		return nil, nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, cli.Usagef("%s %q: write ADDRESS:PORT, such as 127.0.0.1:2222, or off", flag, addr)
	}
	l, err := net.Listen("tcp", addr)
	var dns *net.DNSError
	var ae *net.AddrError
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use by another program; choose another port, or port 0 for any free one", flag, addr)
	case errors.As(err, &dns), errors.As(err, &ae):
		return nil, cli.Usagef("%s %q: %w; write ADDRESS:PORT", flag, addr, err)
	}
	return nil, fmt.Errorf("%s: %w; choose another address or port", flag, err)
}

// prepare loads or makes the keys that the front ends need.
func (s *serving) prepare() (err error) {
	l := s.listeners
	if l.ssh == nil && l.https == nil {
		return nil
	}
	dir := s.flags.state
	if dir == "" {
		dir = defaultState()
	}
	var unlock func()
	if s.access.state, unlock, err = openState(dir); err != nil {
		return err
	}
	defer unlock()
	if l.ssh != nil {
		if err := s.prepareSSH(); err != nil {
			return err
		}
	}
	if l.https != nil {
		return s.prepareHTTPS()
	}
	return nil
}

func (s *serving) prepareSSH() error {
	f, a, c := s.flags, &s.access, &s.credentials
	host, err := a.state.key(fileHostKey, "vmfr host")
	if err != nil {
		return err
	}
	a.hostKey = host.PublicKey()
	if c.HostKey, err = a.state.read(fileHostKey); err != nil {
		return err
	}
	c.SSHUser = []byte(f.user)
	if c.TrustedCA, err = f.ssh.authorities(); err != nil {
		return err
	}
	switch {
	case f.authorizedKeys != "":
		if c.AuthorizedKeys, err = readAuthorizedKeys(f.authorizedKeys, s.log); err != nil {
			return err
		}
	case c.TrustedCA == nil:
		key, err := a.state.clientKey()
		if err != nil {
			return err
		}
		a.generated = true
		c.AuthorizedKeys = gossh.MarshalAuthorizedKey(key)
	}
	return a.state.keep(fileKnownHosts, knownHosts(s.listeners.ssh.Addr().String(), a.hostKey))
}

func (s *serving) prepareHTTPS() error {
	f, a, c := s.flags, &s.access, &s.credentials
	c.BrowserUser = []byte(f.user)
	if f.password != "" {
		b, err := readSecret(f.password)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w; make it, with mode 0600", err)
			}
			return fmt.Errorf("--password-file: %w", err)
		}
		if _, err := parsePassword(b); err != nil {
			return fmt.Errorf("--password-file %s: %w", f.password, err)
		}
		a.password, c.Password = f.password, b
	} else {
		p, err := a.state.password()
		if err != nil {
			return err
		}
		a.password, c.Password = a.state.path(filePassword), []byte(p)
	}
	// The address as it was asked for may be a name, which the socket's is not.
	host, _, err := net.SplitHostPort(f.listenHTTPS)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(s.listeners.https.Addr().String())
	if err != nil {
		return err
	}
	hosts, err := files.Hosts(net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	_, server, err := a.state.certificate(hosts, time.Now())
	if err != nil {
		return err
	}
	c.Certificate, c.PrivateKey = server.Cert, server.Key
	if f.tlsCert == "" && f.tlsKey == "" {
		return nil
	}
	if s.getCertificate, err = files.CertificateFiles(f.tlsCert, f.tlsKey, s.log); err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	own, err := s.getCertificate(nil)
	if err == nil {
		c.Certificate, c.PrivateKey, err = encodeCertificate(own)
	}
	return err
}

// mountFlags are those of a FUSE mount.
type mountFlags struct {
	dir                            string
	allowOther, defaultPermissions bool
}

func (m *mountFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&m.allowOther, "allow-other", false, "let all users of this machine use the mount")
	flags.BoolVar(&m.defaultPermissions, "default-permissions", false, "check the guest's permissions against the user of this machine")
}

func (m *mountFlags) registerDir(flags *pflag.FlagSet) {
	flags.StringVar(&m.dir, "mount", "", "mount the tree at `DIR`, an empty folder, too (FUSE)")
}

func (m *mountFlags) config() *worker.Mount {
	if m.dir == "" {
		return nil
	}
	return &worker.Mount{Dir: m.dir, AllowOther: m.allowOther, DefaultPermissions: m.defaultPermissions}
}
