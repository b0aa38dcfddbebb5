package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vmfr/api/files"
	"vmfr/internal/cli"
	"vmfr/sshd"
)

// The files of the state folder.
const (
	fileClientKey  = "id_ed25519" // and .pub: for ssh -i
	fileHostKey    = "ssh_host_ed25519_key"
	filePassword   = "password"
	fileCA         = "ca.pem" // for curl --cacert
	fileCAKey      = "ca-key.pem"
	fileServer     = "server.pem"
	fileServerKey  = "server-key.pem"
	fileKnownHosts = "known_hosts"
	fileLock       = ".lock"
)

const (
	// passwordLength characters of 64 are 144 bits.
	passwordLength = 24
	passwordChars  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	// maxStateFile bounds what is read of a file in the folder, in bytes.
	maxStateFile = 64 << 10
)

// state is a folder of keys that are made once and kept, so that clients may remember them.
// The folder has mode 0700 and its files 0600; a secret that others could have read, and a
// file that is not what it should be, is an error: replacing it silently would look to
// clients like an attack.
type state struct{ dir string }

// defaultState is $XDG_STATE_HOME/vmfr or ~/.local/state/vmfr (XDG Base Directory Specification).
func defaultState() string {
	if base := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "vmfr")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "vmfr")
	}
	return ""
}

// openState makes the folder and locks it until unlock, so that two processes that start at
// the same time agree on the keys.
func openState(dir string) (s state, unlock func(), err error) {
	if dir == "" {
		return s, nil, cli.Usagef("no home folder is known for the keys; say where with --state DIR")
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return s, nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return s, nil, fmt.Errorf("state folder: %w; choose another with --state DIR", err)
	}
	st, err := os.Stat(s.dir)
	switch {
	case err != nil:
		return s, nil, fmt.Errorf("state folder: %w", err)
	case st.Mode().Perm()&0o077 != 0:
		return s, nil, fmt.Errorf("state folder %s is open to others (mode %04o); if only you used it, run: chmod 700 %s", s.dir, st.Mode().Perm(), shellQuote(s.dir))
	}
	lock, err := os.OpenFile(s.path(fileLock), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return s, nil, fmt.Errorf("state folder: %w; choose another with --state DIR", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		_ = lock.Close()
		return s, nil, fmt.Errorf("state folder: lock: %w", err)
	}
	return s, func() { _ = lock.Close() }, nil
}

func (s state) path(name string) string { return filepath.Join(s.dir, name) }

// read returns a file's content, fs.ErrNotExist where there is none. It refuses a file that
// others may read or change.
func (s state) read(name string) ([]byte, error) { return readSecret(s.path(name)) }

// readSecret reads a small file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxStateFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxStateFile)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o); if nobody did, run: chmod 600 %s", path, st.Mode().Perm(), shellQuote(path))
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if n < len(b) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// write replaces a file at once or not at all, also over a crash.
func (s state) write(name string, b []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("state folder: %w", err)
		}
	}()
	f, err := os.CreateTemp(s.dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(name)); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// damaged is the error for a file that is not what it should be.
func (s state) damaged(name string, err error) error {
	return fmt.Errorf("%s is damaged: %w; restore it, or remove it to have a new one made", s.path(name), err)
}

// key returns the ed25519 key in name, made if there is none.
func (s state) key(name, comment string) (gossh.Signer, error) {
	b, err := s.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		b, _, err = sshd.NewKey(comment)
		if err == nil {
			err = s.write(name, b)
		}
	}
	if err != nil {
		return nil, err
	}
	k, err := gossh.ParsePrivateKey(b)
	if err != nil {
		return nil, s.damaged(name, err)
	}
	if k.PublicKey().Type() != gossh.KeyAlgoED25519 {
		return nil, s.damaged(name, fmt.Errorf("it is a key of type %s", k.PublicKey().Type()))
	}
	return k, nil
}

// clientKey returns the key that logs in, and keeps its public half beside it.
func (s state) clientKey() (gossh.PublicKey, error) {
	k, err := s.key(fileClientKey, "vmfr client")
	if err != nil {
		return nil, err
	}
	line := strings.TrimSuffix(string(gossh.MarshalAuthorizedKey(k.PublicKey())), "\n") + " vmfr client\n"
	return k.PublicKey(), s.keep(fileClientKey+".pub", line)
}

// keep writes a file that follows from others, unless it is right already.
func (s state) keep(name, content string) error {
	if b, err := os.ReadFile(s.path(name)); err == nil && string(b) == content {
		return nil
	}
	return s.write(name, []byte(content))
}

// password returns the kept password, made if there is none.
func (s state) password() (string, error) {
	b, err := s.read(filePassword)
	if errors.Is(err, fs.ErrNotExist) {
		random := make([]byte, passwordLength)
		if _, err := rand.Read(random); err != nil {
			return "", err
		}
		for i, c := range random {
			random[i] = passwordChars[c%byte(len(passwordChars))] // 64 divides 256: no bias
		}
		return string(random), s.write(filePassword, append(random, '\n'))
	}
	if err != nil {
		return "", err
	}
	p, err := parsePassword(b)
	if err != nil {
		return "", s.damaged(filePassword, err)
	}
	return p, nil
}

// minPassword is the least length of a password that somebody chose.
const minPassword = 12

// parsePassword takes the first and only line of a password file.
func parsePassword(b []byte) (string, error) {
	p := strings.TrimRight(string(b), "\r\n")
	switch {
	case strings.ContainsAny(p, "\r\n\x00"):
		return "", errors.New("it has more than one line")
	case len(p) < minPassword:
		return "", fmt.Errorf("the password has %d characters; at least %d are needed", len(p), minPassword)
	}
	return p, nil
}

// certificate returns the authority and a server certificate for hosts, renewed where needed.
func (s state) certificate(hosts []string, now time.Time) (ca, server files.Pair, err error) {
	ca, err = s.pair(fileCA, fileCAKey)
	if errors.Is(err, fs.ErrNotExist) {
		if ca, err = files.NewAuthority(now); err == nil {
			err = s.writePair(fileCA, fileCAKey, ca)
		}
	}
	if err != nil {
		return ca, server, err
	}
	if why := files.StaleAuthority(ca, now); why != "" {
		return ca, server, fmt.Errorf("the certificate authority %s cannot be used: %s; remove it and %s to have a new one made, and give clients the new one",
			s.path(fileCA), why, fileCAKey)
	}
	server, err = s.pair(fileServer, fileServerKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ca, server, err
	}
	if err == nil && files.Stale(ca, server, hosts, now) == "" {
		return ca, server, nil
	}
	// Clients know the authority, so a new server certificate is nothing to them.
	if server, err = files.NewServer(ca, hosts, now); err == nil {
		err = s.writePair(fileServer, fileServerKey, server)
	}
	return ca, server, err
}

func (s state) pair(cert, key string) (files.Pair, error) {
	c, err := s.read(cert)
	if err != nil {
		return files.Pair{}, err
	}
	k, err := s.read(key)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is missing; restore it, or remove %s too to have new ones made", s.path(key), cert)
	}
	return files.Pair{Cert: c, Key: k}, err
}

// writePair writes the key first: a key without its certificate is made anew, a certificate
// without its key could not be.
func (s state) writePair(cert, key string, p files.Pair) error {
	if err := s.write(key, p.Key); err != nil {
		return err
	}
	return s.write(cert, p.Cert)
}

// shellQuote makes a word for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
