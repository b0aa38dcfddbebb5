package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// withoutLog is the contender of the audit rows: the same program without --audit-log.
const withoutLog = "without the log"

// auditRounds are the rounds of a pair for each of config.runs. What is looked for is smaller than
// the noise of one, so many are needed.
const auditRounds = 10

// auditRows compare the processor time that the server uses for the same with and without an
// audit log: a large file, where a line is written for a gibibyte, and small files, where there is one
// for each. Time and not throughput, since the client and other programs share the processors.
func auditRows(c config, im images, r *report) (err error) {
	raw := im.formats[0]
	var ssh [2]sshTarget
	var https [2]web
	for k := range ssh {
		own := c
		own.work = filepath.Join(c.work, fmt.Sprintf("audit%d", k)) // keys and known hosts of its own
		if err := os.MkdirAll(own.work, 0o700); err != nil {
			return err
		}
		var args []string
		if k == 0 {
			args = []string{"--audit-log", filepath.Join(own.work, "audit.log")}
		}
		if ssh[k], err = startOurs(own, raw, args...); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ssh[k].stop()) }()
		if https[k], err = startWeb(own, raw, args...); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, https[k].stop()) }()
	}
	const disk = "/backups/b/d/"
	into, err := os.MkdirTemp(c.work, "pulled")
	if err != nil {
		return err
	}
	sftp := func(batch string) func(k int) (int, error) {
		return func(k int) (int, error) {
			t := ssh[k]
			return t.pids()[0], sh("bash", "-euo", "pipefail", "-c", `printf '%s\n' "$1" | sftp -q -b - -P "$2" -i "$3" -oUserKnownHostsFile="$4" -oStrictHostKeyChecking=yes -oIdentitiesOnly=yes "$5"`,
				"-", batch, t.port, t.identity, t.known, t.user+"@127.0.0.1")
		}
	}
	curl := func(what string) func(k int) (int, error) {
		return func(k int) (int, error) {
			return https[k].pids()[0], sh("bash", "-euo", "pipefail", "-c", strings.ReplaceAll(https[k].curl+what, "URL", https[k].url))
		}
	}
	thousand := ""
	for i := range 10 {
		thousand += fmt.Sprintf(" -o /dev/null 'URL/files%ssmall/d00%d/file-00%d[00-99].txt'", disk, i, i)
	}
	for _, x := range []struct {
		name string
		pull func(k int) (pid int, err error)
	}{
		{"sftp, large file", sftp("get " + disk + bigName + " /dev/null")},
		{"sftp, 1,000 small files", sftp("get -r " + disk + "small/d00* " + into)},
		{"https, large file", curl(" -o /dev/null URL/files" + disk + bigName)},
		{"https, 1,000 small files", curl(thousand)},
	} {
		used, err := pairs(auditRounds*c.runs, x.pull)
		if err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		r.addPairs("audit log, "+x.name, raw.name, "cpu ms", used, [2]string{ours.name, withoutLog})
		log.Printf("audit log, %s: %.1f ms, without %.1f", x.name, decile(used[0]), decile(used[1]))
	}
	return os.RemoveAll(into)
}

// pairs pulls n times from both, in turns, and returns the milliseconds of processor time of each.
func pairs(n int, pull func(k int) (pid int, err error)) (used [2][]float64, err error) {
	var before [2]float64
	for i := range n + 1 {
		for j := range 2 {
			k := (i + j) % 2 // who is first changes, too
			pid, err := pull(k)
			if err != nil {
				return used, err
			}
			now, err := cpuMillis(pid)
			if err != nil {
				return used, err
			}
			if i > 0 { // the first round warms the caches
				used[k] = append(used[k], now-before[k])
			}
			before[k] = now
		}
	}
	return used, nil
}

// cpuMillis is the time that the threads of a process have run, in milliseconds: the first number
// of schedstat, nanoseconds (Documentation/scheduler/sched-stats). stat's ticks are too long.
func cpuMillis(pid int) (float64, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d: no schedstat", pid)
	}
	sum := 0.0
	for _, t := range threads {
		b, err := os.ReadFile(t)
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
		if err != nil {
			return 0, err
		}
		sum += ns / 1e6
	}
	return sum, nil
}
