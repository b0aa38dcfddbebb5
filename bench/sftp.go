package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

var ciphers = []string{"aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"}

// sshTarget is an SSH server that has the large file at path.
type sshTarget struct {
	name             string
	port, user, path string
	identity, known  string
	pids             func() []int
	stop             func() error
}

// sftpThroughput pulls the large file with OpenSSH's sftp client from our server and from
// OpenSSH's, which serves the kernel's loop mount. The client writes to /dev/null.
func sftpThroughput(c config, im images, r *report) error {
	raw := im.formats[0]
	us, err := startOurs(c, raw)
	if err != nil {
		return err
	}
	them, err := startOpenSSH(c, raw)
	if err != nil {
		return errors.Join(err, us.stop())
	}
	results := map[string][]float64{}
	for i := range c.runs + 1 {
		for _, cipher := range ciphers {
			for _, t := range []sshTarget{us, them} { // alternating, so that noise meets both
				v, err := t.pull(c, cipher)
				if err != nil {
					return errors.Join(err, us.stop(), them.stop())
				}
				if i > 0 { // the first round warms the caches
					results[t.name+cipher] = append(results[t.name+cipher], v)
				}
			}
		}
	}
	for _, cipher := range ciphers {
		for _, t := range []sshTarget{us, them} {
			r.add("sftp "+cipher, raw.name, t.name, "MiB/s", results[t.name+cipher])
			log.Printf("sftp %s %s: %.0f MiB/s", cipher, t.name, median(results[t.name+cipher]))
		}
	}
	r.add("peak memory, sftp", raw.name, us.name, "MiB", []float64{peakMiB(us.pids())})
	return errors.Join(us.stop(), them.stop())
}

func (t sshTarget) pull(c config, cipher string) (float64, error) {
	start := time.Now()
	cmd := exec.Command("sftp", "-q", "-P", t.port, "-i", t.identity, "-c", cipher,
		"-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile="+t.known, "-oIdentitiesOnly=yes", "-oBatchMode=yes",
		t.user+"@127.0.0.1:"+t.path, "/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sftp from %s: %w: %s", t.name, err, out)
	}
	return float64(c.fileMiB) / time.Since(start).Seconds(), nil
}

func startOurs(c config, f format, more ...string) (sshTarget, error) {
	state := filepath.Join(c.work, "state")
	cmd := exec.Command(c.agent, append([]string{"serve", "--json", "--log-level", "warn", "--state", state, "--listen-ssh", "127.0.0.1:0",
		"--listen-https", "127.0.0.1:0", "--disk", "b/d=" + f.path + ",format=" + f.kind}, more...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return sshTarget{}, err
	}
	if err := cmd.Start(); err != nil {
		return sshTarget{}, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return sshTarget{}, fmt.Errorf("vmfr-agent serve said nothing: %w", err)
	}
	var ready struct {
		SSH struct{ Address, User, IdentityFile, KnownHostsFile string }
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return sshTarget{}, err
	}
	_, port, err := net.SplitHostPort(ready.SSH.Address)
	if err != nil {
		return sshTarget{}, err
	}
	return sshTarget{
		name: ours.name, port: port, user: ready.SSH.User, path: "/backups/b/d/" + bigName,
		identity: ready.SSH.IdentityFile, known: ready.SSH.KnownHostsFile,
		pids: func() []int { return serving(cmd.Process.Pid) },
		stop: func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) },
	}, nil
}

func startOpenSSH(c config, f format) (sshTarget, error) {
	mt, err := mountKernel(c, f)
	if err != nil {
		return sshTarget{}, err
	}
	return startOpenSSHOn(c, mt)
}

// startOpenSSHOn starts OpenSSH's server for what is mounted, and unmounts that in the end.
func startOpenSSHOn(c config, mt mounted) (sshTarget, error) {
	dir, err := os.MkdirTemp(c.work, "sshd")
	if err != nil {
		return sshTarget{}, err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, k := range []string{"host", "user"} {
		if err := sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(k)); err != nil {
			return sshTarget{}, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return sshTarget{}, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return sshTarget{}, err
	}
	if err := l.Close(); err != nil {
		return sshTarget{}, err
	}
	hostPub, err := os.ReadFile(path("host.pub"))
	if err != nil {
		return sshTarget{}, err
	}
	conf := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nPermitRootLogin prohibit-password\n"+
		"StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n", port, path("host"), path("user.pub"))
	if err := os.WriteFile(path("known_hosts"), []byte("[127.0.0.1]:"+port+" "+string(hostPub)), 0o600); err != nil {
		return sshTarget{}, err
	}
	if err := os.WriteFile(path("sshd_config"), []byte(conf), 0o600); err != nil {
		return sshTarget{}, err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return sshTarget{}, err
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", path("sshd_config"))
	if err := cmd.Start(); err != nil {
		return sshTarget{}, err
	}
	t := sshTarget{
		name: "OpenSSH", port: port, user: "root", path: filepath.Join(mt.root, bigName), identity: path("user"), known: path("known_hosts"),
		pids: func() []int { return nil },
		stop: func() error {
			err := cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait() // ends by the signal
			return errors.Join(err, mt.stop(), os.RemoveAll(dir))
		},
	}
	for range 100 {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			return t, conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return t, errors.Join(errors.New("sshd does not listen"), t.stop())
}
