package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// streams is how many clients pull the large file at a time in the row of parallel sftp.
const streams = 8

// sshServer is a contender of rsync.
type sshServer struct {
	name  string // what is mounted
	runs  int
	start func(config, format) (sshTarget, error)
}

// sshServers are those that rsync is measured with: ours, and OpenSSH's with the same rsync on a
// mount of the others.
func sshServers(c config) []sshServer {
	on := func(m mounter) sshServer {
		return sshServer{m.name, runsFor(c, m), func(c config, f format) (sshTarget, error) {
			mt, err := m.mount(c, f)
			if err != nil {
				return sshTarget{}, err
			}
			return startOpenSSHOn(c, mt)
		}}
	}
	servers := []sshServer{{ours.name, c.runs, func(c config, f format) (sshTarget, error) { return startOurs(c, f) }}, on(kernel)}
	if c.guest {
		servers = append(servers, on(guest))
	}
	return servers
}

// rsyncThroughput copies the small files and the large one with rsync over SSH from servers that
// were just started, the image in the page cache. The contender's name is what is mounted.
func rsyncThroughput(c config, im images, r *report) error {
	raw := im.formats[0]
	servers := sshServers(c)
	small, big := map[string][]float64{}, map[string][]float64{}
	for i := range c.runs {
		for _, s := range servers { // alternating, so that noise meets all
			if i >= s.runs {
				continue
			}
			if err := readAll(raw); err != nil {
				return err
			}
			t, err := s.start(c, raw)
			if err != nil {
				return err
			}
			took, err := t.rsync(c, "small/")
			if err == nil {
				small[s.name] = append(small[s.name], took)
				took, err = t.rsync(c, bigName)
				big[s.name] = append(big[s.name], float64(c.fileMiB)/took)
			}
			if err = errors.Join(err, t.stop()); err != nil {
				return err
			}
		}
	}
	for _, s := range servers {
		r.add("rsync, small files", raw.name, s.name, "s", small[s.name])
		r.add("rsync, large file", raw.name, s.name, "MiB/s", big[s.name])
		log.Printf("rsync %s: small files %.2f s, large file %.0f MiB/s", s.name, median(small[s.name]), median(big[s.name]))
	}
	return nil
}

// rsync copies what, relative to the file system's root, to an empty folder and returns seconds.
func (t sshTarget) rsync(c config, what string) (float64, error) {
	dst, err := os.MkdirTemp(c.work, "rsync")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dst) }()
	ssh := strings.Join(t.options(), " ")
	start := time.Now()
	out, err := exec.Command("rsync", "-aHAX", "--numeric-ids", "-e", ssh, t.user+"@127.0.0.1:"+path.Join(path.Dir(t.path), what)+slash(what), dst+"/").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("rsync from %s: %w: %s", t.name, err, out)
	}
	took := time.Since(start).Seconds()
	if names, err := filepath.Glob(filepath.Join(dst, "*")); err != nil || len(names) == 0 {
		return 0, fmt.Errorf("rsync from %s copied nothing", t.name)
	}
	return took, nil
}

// options is the ssh program with what the server needs, without its name.
func (t sshTarget) options() []string {
	return []string{"ssh", "-p", t.port, "-i", t.identity, "-oStrictHostKeyChecking=yes",
		"-oUserKnownHostsFile=" + t.known, "-oIdentitiesOnly=yes", "-oBatchMode=yes"}
}

// command is the ssh program with the server, before a command for it.
func (t sshTarget) command() []string { return append(t.options(), t.user+"@127.0.0.1") }

// slash is the slash at the end of what, which path.Join removes.
func slash(what string) string {
	if strings.HasSuffix(what, "/") {
		return "/"
	}
	return ""
}

// sftpStreams pulls the large file with several clients at a time.
func sftpStreams(c config, im images, r *report) error {
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
		for _, t := range []sshTarget{us, them} {
			v, err := t.pullMany(c, ciphers[0])
			if err != nil {
				return errors.Join(err, us.stop(), them.stop())
			}
			if i > 0 { // the first round warms the caches
				results[t.name] = append(results[t.name], v)
			}
		}
	}
	for _, t := range []sshTarget{us, them} {
		r.add(fmt.Sprintf("sftp, %d streams", streams), raw.name, t.name, "MiB/s", results[t.name])
		log.Printf("sftp, %d streams %s: %.0f MiB/s", streams, t.name, median(results[t.name]))
	}
	r.add(fmt.Sprintf("peak memory, sftp, %d streams", streams), raw.name, us.name, "MiB", []float64{peakMiB(us.pids())})
	return errors.Join(us.stop(), them.stop())
}

// pullMany is pull by all streams at a time; the result is their sum.
func (t sshTarget) pullMany(c config, cipher string) (float64, error) {
	start := time.Now()
	done := make(chan error, streams)
	for range streams {
		go func() { _, err := t.pull(c, cipher); done <- err }()
	}
	var err error
	for range streams {
		err = errors.Join(err, <-done)
	}
	return float64(streams*c.fileMiB) / time.Since(start).Seconds(), err
}
