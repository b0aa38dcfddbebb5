package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// web is a running server of ours for curl.
type web struct {
	url, curl string // curl: the command with its credentials
	pids      func() []int
	stop      func() error
}

// httpsCipher is what both servers and curl use.
const httpsCipher = "TLS_AES_128_GCM_SHA256"

// nginxName is the contender's name in the report.
const nginxName = "nginx on the loop mount"

// sshTarName is the contender of archives: ssh HOST tar.
const sshTarName = "ssh tar on the loop mount"

func startWeb(c config, f format, more ...string) (web, error) {
	state := filepath.Join(c.work, "state")
	cmd := exec.Command(c.agent, append([]string{"serve", "--json", "--log-level", "error", "--state", state, "--listen-ssh", "off", "--listen-https", "127.0.0.1:0",
		"--disk", "b/d=" + f.path + ",format=" + f.kind}, more...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return web{}, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return web{}, fmt.Errorf("vmfr-agent serve said nothing: %w", err)
	}
	var ready struct {
		HTTPS struct{ URL, User, PasswordFile, CAFile string }
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return web{}, err
	}
	h := ready.HTTPS
	return web{
		url: h.URL, pids: func() []int { return serving(cmd.Process.Pid) },
		curl: fmt.Sprintf(`curl -q -sS --fail --tls13-ciphers %s --cacert '%s' -u "%s:$(cat '%s')"`, httpsCipher, h.CAFile, h.User, h.PasswordFile),
		stop: func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) },
	}, nil
}

// startNginx serves a folder with our certificate; curl's command for it is returned.
func startNginx(c config, root string) (url string, stop func() error, err error) {
	dir, err := os.MkdirTemp(c.work, "nginx")
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr, state := l.Addr().String(), filepath.Join(c.work, "state")
	_ = l.Close() // nginx takes no listener
	conf := fmt.Sprintf(`daemon off; worker_processes auto; pid %[1]s/pid; error_log %[1]s/error; user root;
events {}
http { access_log off; sendfile on; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
server { listen %[2]s ssl; ssl_certificate %[3]s/server.pem; ssl_certificate_key %[3]s/server-key.pem; ssl_protocols TLSv1.3; root %[4]s; } }
`, dir, addr, state, root)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("nginx", "-c", filepath.Join(dir, "conf"))
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	for range 100 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "https://" + addr, func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		return errors.Join(err, os.RemoveAll(dir))
	}, nil
}

// timed runs a script and returns its seconds.
func timed(script string) (float64, error) {
	start := time.Now()
	err := sh("bash", "-euo", "pipefail", "-c", script)
	return time.Since(start).Seconds(), err
}

// httpsRows downloads the large file by curl, alone and with 8 clients, pulls the small files
// as tar, each against what people would do with the loop mount.
func httpsRows(c config, im images, r *report) (err error) {
	raw := im.formats[0]
	us, err := startWeb(c, raw)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, us.stop()) }()
	mt, err := kernel.mount(c, raw)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mt.stop()) }()
	nginx, stop, err := startNginx(c, mt.root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	mt2, err := kernel.mount(c, raw)
	if err != nil {
		return err
	}
	ssh, err := startOpenSSHOn(c, mt2) // which unmounts it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ssh.stop()) }()
	sshTar := strings.Join(append(ssh.command(), "tar", "-C", mt2.root, "-cf", "-", "small"), " ") + " >/dev/null"
	tree := us.url + "/files/backups/b/d/"
	eight := func(s string) string { return strings.Repeat(s+" & ", 8) + "wait" }
	for _, row := range []struct {
		name, unit string
		amount     float64 // MiB; 0: seconds are the result
		who        [2]string
		scripts    [2]string
	}{
		{"https, 1 client", "MiB/s", float64(c.fileMiB), [2]string{ours.name, nginxName}, [2]string{us.curl + " -o /dev/null " + tree + bigName, us.curl + " -o /dev/null " + nginx + "/" + bigName}},
		{"https, 8 clients", "MiB/s", 8 * float64(c.fileMiB), [2]string{ours.name, nginxName}, [2]string{eight(us.curl + " -o /dev/null " + tree + bigName), eight(us.curl + " -o /dev/null " + nginx + "/" + bigName)}},
		{"tar of the small files over https", "s", 0, [2]string{ours.name, sshTarName}, [2]string{us.curl + " -o /dev/null '" + us.url + "/api/v1/archive?path=/backups/b/d/small&format=tar'", sshTar}},
	} {
		var results [2][]float64
		for i := range c.runs + 1 { // the first round warms the caches
			for k, script := range row.scripts {
				s, err := timed(script)
				if err != nil {
					return fmt.Errorf("%s: %w", row.name, err)
				}
				if row.amount > 0 {
					s = row.amount / s
				}
				if i > 0 {
					results[k] = append(results[k], s)
				}
			}
		}
		for k, who := range row.who {
			r.add(row.name, raw.name, who, row.unit, results[k])
		}
	}
	r.add("peak memory, https", raw.name, ours.name, "MiB", []float64{peakMiB(us.pids())})
	return nil
}
