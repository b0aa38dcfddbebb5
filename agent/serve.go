package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
	"vmfr/agent/worker"
	"vmfr/api/files"
	"vmfr/internal/cli"
	"vmfr/sshd"
)

// serveFlags are those of serve.
type serveFlags struct {
	disks                    diskFlags
	log                      cli.LogFlags
	listenSSH, listenHTTPS   string
	ssh                      sshFlags
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
	f.disks.fallback.registerOff(flags)
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
	if err := f.ssh.check(); err != nil {
		return err
	}
	disks, err := f.disks.open(log)
	if err != nil {
		return err
	}
	defer disks.close()
	worker.LimitMemory(disks.count)
	records, err := f.openAudit()
	if err != nil {
		return err
	}
	defer func() { closeAudit(records, log) }()

	cfg := worker.Config{Backups: disks.backups, Fallback: disks.fallback, Version: version, Log: log, Audit: records, Mount: f.mount.config()}
	listeners, err := f.listen()
	if err != nil {
		return err
	}
	defer listeners.close()
	a, err := f.credentials(&cfg, listeners, log)
	if err != nil {
		return err
	}
	if cfg.SSH != nil {
		cfg.SSH.Jail = f.ssh.jail(log)
	}
	cfg.Ready = func(t *tree.Tree) error {
		r := newReady(f, &cfg, a)
		if f.json {
			return r.writeJSON(c.OutOrStdout())
		}
		return r.writeText(c.OutOrStdout(), t, disks.story)
	}
	return worker.Run(c.Context(), cfg)
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

// credentials loads or makes the keys that the front ends need and puts them into cfg.
func (f *serveFlags) credentials(cfg *worker.Config, l listeners, log *slog.Logger) (a access, err error) {
	if l.ssh == nil && l.https == nil {
		return a, nil
	}
	dir := f.state
	if dir == "" {
		dir = defaultState()
	}
	var unlock func()
	if a.state, unlock, err = openState(dir); err != nil {
		return a, err
	}
	defer unlock()
	if l.ssh != nil {
		if cfg.SSH, err = f.sshAccess(&a, l.ssh, log); err != nil {
			return a, err
		}
	}
	if l.https != nil {
		cfg.HTTPS, err = f.httpsAccess(&a, l.https, log)
	}
	return a, err
}

func (f *serveFlags) sshAccess(a *access, l net.Listener, log *slog.Logger) (*worker.SSH, error) {
	host, err := a.state.key(fileHostKey, "vmfr host")
	if err != nil {
		return nil, err
	}
	a.hostKey = host.PublicKey()
	c := &worker.SSH{Listener: l, User: f.user, HostKey: host, IdleTimeout: f.ssh.idleTimeout}
	if c.TrustedUserCAs, err = f.ssh.authorities(); err != nil {
		return nil, err
	}
	switch {
	case f.authorizedKeys != "":
		if c.AuthorizedKeys, err = readAuthorizedKeys(f.authorizedKeys, log); err != nil {
			return nil, err
		}
	case len(c.TrustedUserCAs) == 0:
		key, err := a.state.clientKey()
		if err != nil {
			return nil, err
		}
		a.generated = true
		c.AuthorizedKeys = []sshd.AuthorizedKey{{Key: key}}
	}
	return c, a.state.keep(fileKnownHosts, knownHosts(l.Addr().String(), a.hostKey))
}

func (f *serveFlags) httpsAccess(a *access, l net.Listener, log *slog.Logger) (*worker.HTTPS, error) {
	c := &worker.HTTPS{Listener: l, User: f.user}
	var err error
	if f.password != "" {
		b, err := readSecret(f.password)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w; make it, with mode 0600", err)
			}
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		if c.Password, err = parsePassword(b); err != nil {
			return nil, fmt.Errorf("--password-file %s: %w", f.password, err)
		}
		a.password = f.password
	} else {
		if c.Password, err = a.state.password(); err != nil {
			return nil, err
		}
		a.password = a.state.path(filePassword)
	}
	if f.tlsCert != "" || f.tlsKey != "" {
		if c.GetCertificate, err = files.CertificateFiles(f.tlsCert, f.tlsKey, log); err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
	}
	// The address as it was asked for may be a name, which the socket's is not.
	host, _, err := net.SplitHostPort(f.listenHTTPS)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	hosts, err := files.Hosts(net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	_, server, err := a.state.certificate(hosts, time.Now())
	if err != nil {
		return nil, err
	}
	c.Certificate, err = server.TLS()
	return c, err
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
