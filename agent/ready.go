package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"vmfr/agent/sample"
)

// ready is what is served and how to get at it, for people and programs.
type ready struct {
	SSH   *readySSH   `json:"ssh,omitempty"`
	HTTPS *readyHTTPS `json:"https,omitempty"`
	Mount string      `json:"mount,omitempty"` // absolute

	Sandbox readySandbox `json:"sandbox"`
}

// readySandbox tells in what images are read.
type readySandbox struct {
	On bool `json:"on"` // in a process without rights, files and network
	// Missing are the layers that could not be set up; where it is not on, why.
	Missing []string `json:"missing,omitempty"`
}

type readySSH struct {
	Address        string `json:"address"` // host:port that a client on this machine can use
	User           string `json:"user"`
	IdentityFile   string `json:"identityFile,omitempty"` // empty: the user's own key
	HostKey        string `json:"hostKey"`                // as in authorized_keys
	Fingerprint    string `json:"fingerprint"`            // of HostKey, as ssh shows it
	KnownHostsFile string `json:"knownHostsFile"`
}

type readyHTTPS struct {
	URL          string `json:"url"` // without a slash at the end
	User         string `json:"user"`
	PasswordFile string `json:"passwordFile"`
	CAFile       string `json:"caFile"`
}

func (s *serving) newReady() ready {
	var r ready
	a := s.access
	if l := s.listeners.ssh; l != nil {
		r.SSH = &readySSH{
			Address: reachable(l.Addr().String()), User: s.flags.user,
			HostKey:        strings.TrimSpace(string(gossh.MarshalAuthorizedKey(a.hostKey))),
			Fingerprint:    gossh.FingerprintSHA256(a.hostKey),
			KnownHostsFile: a.state.path(fileKnownHosts),
		}
		if a.generated {
			r.SSH.IdentityFile = a.state.path(fileClientKey)
		}
	}
	if l := s.listeners.https; l != nil {
		r.HTTPS = &readyHTTPS{URL: "https://" + reachable(l.Addr().String()), User: s.flags.user,
			PasswordFile: a.password, CAFile: a.state.path(fileCA)}
	}
	if r.Mount = s.flags.mount.dir; r.Mount != "" {
		if abs, err := filepath.Abs(r.Mount); err == nil {
			r.Mount = abs
		}
	}
	r.Sandbox = s.sandbox
	return r
}

// reachable is the address for a client on this machine: one that listens everywhere listens
// on the loopback address.
func reachable(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsUnspecified() {
		return addr
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
}

// knownHosts is a known_hosts file (sshd(8)) for a server at addr: for the address itself, and
// for the names of this machine at any port, which differs between runs with port 0.
func knownHosts(addr string, key gossh.PublicKey) string {
	host, _, err := net.SplitHostPort(reachable(addr))
	hosts := []string{knownhosts.Normalize(reachable(addr))}
	if err == nil {
		hosts = append(hosts, host, "["+host+"]:*")
	}
	for _, h := range []string{"localhost", "127.0.0.1", "::1"} {
		if h != host {
			hosts = append(hosts, h, "["+h+"]:*")
		}
	}
	if name, err := os.Hostname(); err == nil && plainWord(name) {
		hosts = append(hosts, name, "["+name+"]:*")
	}
	return strings.Join(hosts, ",") + " " + strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key))) + "\n"
}

func (r ready) writeJSON(w io.Writer) error {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// writeText prints what is served and commands to paste. disks describes the disks, and path, plain
// characters only, is a file on them.
func (r ready) writeText(w io.Writer, disks, path string, story *sample.Manifest) error {
	var b strings.Builder
	b.WriteString("Ready, read-only. Here:\n\n" + disks)
	if story != nil {
		r.writeStory(&b, *story)
	} else {
		b.WriteString("\nGet a file:\n")
		if r.SSH != nil {
			fmt.Fprintf(&b, "  %s\n", r.sftp(path, "."))
			fmt.Fprintf(&b, "  %s\n", r.sshfs("DIR"))
		}
		if r.HTTPS != nil {
			fmt.Fprintf(&b, "  %s -O %s\n", r.curl(), r.url(path))
		}
		if r.Mount != "" {
			fmt.Fprintf(&b, "  ls -l %s\n", shellQuote(r.Mount+path))
		}
	}
	if r.SSH != nil {
		fmt.Fprintf(&b, "\nThe SSH server's key has the fingerprint %s.\n", r.SSH.Fingerprint)
	}
	switch missing := strings.Join(r.Sandbox.Missing, "; "); {
	case missing == "" || os.Geteuid() != 0: // not something that such a user could change
	case r.Sandbox.On:
		fmt.Fprintf(&b, "\nThe sandbox that images are read in lacks a layer: %s.\n", missing)
	default:
		fmt.Fprintf(&b, "\nImages are read without a sandbox, with all rights of this user: %s.\n", missing)
	}
	b.WriteString("\nCtrl-C ends it.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// writeStory tells what there is to find in the sample, and how.
func (r ready) writeStory(b *strings.Builder, m sample.Manifest) {
	first, last := m.Images[0], m.Images[len(m.Images)-1]
	before := "/backups/" + first.Backup + "/" + first.Disk
	after := "/backups/" + last.Backup + "/" + last.Disk
	fmt.Fprintf(b, "\nThe VM %q of a small web shop. Between the two backups a deployment deleted %s\nand changed %s: the shop was down.\n",
		m.VM, m.Deleted, m.Changed)
	b.WriteString("\nGet the deleted document from the older backup:\n")
	if r.HTTPS != nil {
		fmt.Fprintf(b, "  %s -O %s\n", r.curl(), r.url(before+m.Deleted))
	}
	if r.SSH != nil {
		fmt.Fprintf(b, "  %s\n", r.sftp(before+m.Deleted, "."))
	}
	if r.Mount != "" {
		fmt.Fprintf(b, "  cp %s .\n", shellQuote(r.Mount+before+m.Deleted))
	}
	b.WriteString("\nSee what was changed:\n")
	switch {
	case r.Mount != "":
		fmt.Fprintf(b, "  diff %s %s\n", shellQuote(r.Mount+before+m.Changed), shellQuote(r.Mount+after+m.Changed))
	case r.HTTPS != nil:
		fmt.Fprintf(b, "  %s -o before.conf %s -o after.conf %s; diff before.conf after.conf\n", r.curl(), r.url(before+m.Changed), r.url(after+m.Changed))
	default:
		fmt.Fprintf(b, "  %s\n  %s\n  diff before.conf after.conf\n", r.sftp(before+m.Changed, "before.conf"), r.sftp(after+m.Changed, "after.conf"))
	}
	if r.SSH != nil && r.Mount == "" {
		fmt.Fprintf(b, "\nOr look around:\n  %s\n", r.sshfs("DIR"))
	}
}

// sshOption quotes a file name for ssh's -o, which splits at spaces.
func sshOption(key, file string) string {
	if strings.ContainsAny(file, " \t") {
		file = `"` + file + `"`
	}
	return shellQuote(key + "=" + file)
}

func (r ready) host() (host, port string) {
	host, port, _ = net.SplitHostPort(r.SSH.Address)
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host, port
}

func (r ready) sftp(path, to string) string {
	host, port := r.host()
	identity := ""
	if r.SSH.IdentityFile != "" {
		// Else an agent's keys are tried first, and too many of them end the login.
		identity = " -o IdentitiesOnly=yes -i " + shellQuote(r.SSH.IdentityFile)
	}
	return fmt.Sprintf("sftp%s -o %s -P %s %s %s", identity, sshOption("UserKnownHostsFile", r.SSH.KnownHostsFile), port,
		shellQuote(r.SSH.User+"@"+host+":"+path), to)
}

func (r ready) sshfs(dir string) string {
	host, port := r.host()
	identity := ""
	if r.SSH.IdentityFile != "" {
		identity = " -o IdentitiesOnly=yes -o " + sshOption("IdentityFile", r.SSH.IdentityFile)
	}
	return fmt.Sprintf("sshfs%s -o %s -p %s %s %s", identity, sshOption("UserKnownHostsFile", r.SSH.KnownHostsFile), port,
		shellQuote(r.SSH.User+"@"+host+":/"), dir)
}

func (r ready) curl() string {
	return fmt.Sprintf(`curl -fsS --cacert %s -u "%s:$(cat %s)"`, shellQuote(r.HTTPS.CAFile), r.HTTPS.User, shellQuote(r.HTTPS.PasswordFile))
}

// url is the address of a path that exampleFile or the sample's manifest gave: plain characters only.
func (r ready) url(path string) string { return shellQuote(r.HTTPS.URL + "/files" + path) }
