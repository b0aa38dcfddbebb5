package holder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// documents are what the controller mounted into the pod.
type documents struct {
	session *api.Session
	disks   []api.Disk    // of this holder's backup
	hello   session.Hello // without Part and Listeners
}

func (d *documents) sameCredentials(o *documents) bool {
	return reflect.DeepEqual(d.hello.Credentials, o.hello.Credentials)
}

// load reads and checks all of them. The errors say what is waited for.
func (h *holder) load() (*documents, error) {
	d := &documents{}
	text, err := h.read(api.DirSession, api.KeySession, api.MaxSessionBytes)
	if err == nil {
		d.session, err = api.Decode(text)
	}
	if err != nil {
		return nil, err
	}
	d.hello.Session = string(text)
	if h.Backup != "" {
		for _, b := range d.session.Backups {
			if b.Name == h.Backup {
				d.disks = b.Disks
			}
		}
		if d.disks == nil {
			return nil, fmt.Errorf("the session's document does not name the backup %q", h.Backup)
		}
	}
	if d.hello.JoinKey, err = h.read(api.DirIdentity, api.KeyJoin, api.JoinKeyBytes); err != nil {
		return nil, err
	}
	if api.ID(d.hello.JoinKey) != d.session.ID {
		return nil, errors.New("the join key and the session's document do not belong together; one of them has not been updated yet")
	}
	token, err := h.read(api.DirToken, api.FileToken, session.MaxToken)
	if err != nil {
		return nil, err
	}
	d.hello.Token = strings.TrimSpace(string(token))
	if h.Backup == "" {
		d.hello.Credentials, err = h.credentials(d.session)
	}
	return d, err
}

// credentials reads the front's Secrets.
func (h *holder) credentials(s *api.Session) (c session.Credentials, err error) {
	type file struct {
		dir, key string
		into     *[]byte
		needed   bool
	}
	var files []file
	if s.SSH != nil {
		files = append(files,
			file{api.DirIdentity, api.KeyHostKey, &c.HostKey, true}, file{api.DirSSH, api.KeyUsername, &c.SSHUser, true},
			file{api.DirSSH, api.KeyAuthorizedKeys, &c.AuthorizedKeys, false}, file{api.DirSSH, api.KeyTrustedCA, &c.TrustedCA, false})
	}
	if s.Browser != nil {
		files = append(files,
			file{api.DirBrowser, api.KeyUsername, &c.BrowserUser, true}, file{api.DirBrowser, api.KeyPassword, &c.Password, true},
			file{api.DirTLS, api.KeyCertificate, &c.Certificate, true}, file{api.DirTLS, api.KeyPrivateKey, &c.PrivateKey, true})
	}
	for _, f := range files {
		if *f.into, err = h.read(f.dir, f.key, session.MaxCredentials); err != nil && (f.needed || !errors.Is(err, fs.ErrNotExist)) {
			return c, err
		}
	}
	return c, h.diskKeys(&c)
}

// diskKeys reads the Secret of passphrases, if there is one.
func (h *holder) diskKeys(c *session.Credentials) error {
	entries, err := os.ReadDir(h.path(api.DirDiskKeys))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// The kubelet's own entries begin with two dots.
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		b, err := h.read(api.DirDiskKeys, e.Name(), session.MaxCredentials)
		if err != nil {
			return err
		}
		if c.DiskKeys == nil {
			c.DiskKeys = map[string][]byte{}
		}
		c.DiskKeys[e.Name()] = b
	}
	return nil
}

// read reads a mounted file of at most limit bytes.
func (h *holder) read(dir, name string, limit int) ([]byte, error) {
	path := filepath.Join(h.path(dir), name)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// oneLine keeps what another process wrote on one line of the log.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
