package rsyncargs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"rsync --server --sender -logDtpre.iLsfxCIvu . /backups/b/d/":                                "",
		"/usr/bin/rsync --server --sender -e.L . backups":                                            "rsync --server --sender -e.L . backups",
		"rsync --server --sender -lHogDtpAXrSe.iLsfxCIvu --numeric-ids . /restores/x":                "",
		"rsync --server --sender -l -D -g -o -p -r -t . README.txt":                                  "",
		"rsync --server --sender -blogDtpre.iLsfxCIvu --backup-dir x . /backups":                     "rsync --server --sender -blogDtpre.iLsfxCIvu . /backups",
		"rsync --sender --server -re.L --append --append --delete --log-format=%i . /backups/b/./d/": "rsync --server --sender -re.L --append --append . /backups/b/./d/",
		"rsync --server --sender -de.L . .":                                                          "rsync --server --sender -de.L . " + strings.Join(Tops, " "),
		"rsync --server --sender -de.L . / /backups/x":                                               "rsync --server --sender -de.L . " + strings.Join(Tops, " ") + " /backups/x",
		"rsync --server --sender -B2048 -e30.1Lsf --files-from - --from0 . /backups":                 "rsync --server --sender -B2048 -e30.1Lsf --files-from=- --from0 . /backups",
	} {
		if want == "" {
			want = line
		}
		c, err := Parse(strings.Fields(line))
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if got := strings.Join(c.Args(), " "); got != want {
			t.Errorf("%q:\n got  %q\n want %q", line, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	const ok = "rsync --server --sender -logDtpre.iLsfxCIvu "
	for line, want := range map[string]string{
		"":         "must be called rsync",
		"sh -c id": "must be called rsync",
		"/tmp/rsync --server --sender . /backups":         "must be called rsync",
		"rsync --server -logDtpr . /backups":              "only reading is possible",
		"rsync --sender . /backups":                       "only reading is possible",
		"rsync --server x":                                "not expected before",
		ok + "--daemon . /backups":                        "--daemon",
		ok + "--config=/x . /backups":                     "--config",
		ok + "--remove-source-files . /backups":           "--remove-source-files is not allowed: backups are read-only",
		ok + "--log-file=/x . /backups":                   "--log-file",
		ok + "--log-file /x . /backups":                   "--log-file",
		ok + "--write-batch=/x . /backups":                "--write-batch",
		ok + "--only-write-batch=/x . /backups":           "--only-write-batch",
		ok + "--files-from=/etc/passwd . /backups":        "--files-from",
		ok + "--files-from /etc/passwd . /backups":        "--files-from",
		ok + "--files-from":                               "--files-from",
		ok + "--temp-dir=/x . /backups":                   "--temp-dir",
		ok + "-T /x . /backups":                           "option -T",
		ok + "-M--daemon . /backups":                      "option -M",
		ok + "--rsh=sh . /backups":                        "--rsh",
		ok + "--rsync-path=sh . /backups":                 "--rsync-path",
		ok + "--copy-devices . /backups":                  "--copy-devices",
		ok + "--iconv=latin1 . /backups":                  "--iconv",
		ok + "--fake-super . /backups":                    "--fake-super",
		ok + "--exclude-from=/etc/x . /backups":           "--exclude-from",
		ok + "--password-file=/etc/x . /backups":          "--password-file",
		ok + "--sockopts=x . /backups":                    "--sockopts",
		ok + "--bwlimit 5 . /backups":                     "--bwlimit",
		ok + "--bwlimit=;id . /backups":                   "--bwlimit",
		ok + "--numeric-ids=1 . /backups":                 "--numeric-ids",
		ok + "--sender=x . /backups":                      "--sender",
		ok + "-e.Lx;id . /backups":                        "option -e",
		ok + "-esh . /backups":                            "option -e",
		ok + "-Bx . /backups":                             "option -B",
		ok + "--backup-dir":                               "--backup-dir",
		ok + "-- . /backups":                              "option --",
		ok + "- . /backups":                               "not expected",
		ok + ". /backups --daemon":                        "after the options",
		ok + ". --daemon":                                 "after the options",
		ok + ". -x":                                       "after the options",
		ok + ".":                                          "no path",
		ok:                                                "no path",
		ok + ". /etc":                                     "is not there",
		ok + ". /backups/../etc":                          "is not there",
		ok + ". /backups/b/../../.vmfr":                   "is not there",
		ok + ". /backupsx":                                "is not there",
		ok + ". /disks/b/d.raw":                           "whole disks",
		ok + ". /backups host::x":                         "is not there",
		ok + ". /backups\x00":                             "zero byte",
		ok + "-\xff . /backups":                           "option -",
		ok + "--\x1b[31m . /backups":                      `--\x1b[31m`,
		ok + ". " + strings.Repeat("/backups ", MaxArgs):  "too many",
		"rsync --server --sender -slogDtpre.L . /backups": "standard input",
	} {
		c, err := Parse(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100q: %q, %v; want %q", line, c.Args(), err, want)
			continue
		}
		if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 300 {
			t.Errorf("%.100q: %q", line, err)
		}
	}
}

func TestSecluded(t *testing.T) {
	if _, err := Parse(strings.Fields("rsync --server --sender -slogDtpre.iLsfxCIvu")); !errors.Is(err, ErrSecluded) {
		t.Errorf("%v", err)
	}
	first := strings.Fields("rsync --server --sender -slogDtpre.iLsfxCIvu")
	c, err := ParseSecluded(first, []string{"rsync", "--bwlimit=5", ".", "/backups/a b/$c"})
	if want := []string{"rsync", "--server", "--sender", "-logDtpre.iLsfxCIvu", "--bwlimit=5", ".", "/backups/a b/$c"}; err != nil || !reflect.DeepEqual(c.Args(), want) {
		t.Errorf("%q, %v", c.Args(), err)
	}
	for _, more := range [][]string{nil, {"sh"}, {"rsync", "--daemon", ".", "/backups"}, {"rsync", ".", "/etc"}, {"rsync"}} {
		if c, err := ParseSecluded(first, more); err == nil {
			t.Errorf("%q is accepted: %q", more, c.Args())
		}
	}
}

// TestRealClient asks the real program for the command line of every option that only reads.
func TestRealClient(t *testing.T) {
	fixture.Need(t, "rsync")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	script := "#!/bin/sh\nshift\necho \"$@\" > " + out + "\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "rsh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte("etc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(options string) string {
		_ = os.Remove(out)
		cmd := exec.Command("rsync", append([]string{"-e", "./rsh"}, append(strings.Fields(options), "h:/backups/b/d/", "dst/")...)...)
		cmd.Dir = dir
		b, _ := cmd.CombinedOutput()
		line, err := os.ReadFile(out)
		if err != nil {
			t.Fatalf("%s: %s", options, b)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(line)), `\`, "") // quotes for a shell
	}
	for _, o := range []string{
		"-a", "-aHAXS --numeric-ids", "-az", "-az --compress-choice=zstd --compress-level=5", "-a --zc=lz4", "-ac", "-a --checksum-choice=xxh3", "-a --partial",
		"-a --partial-dir=.p", "-a --append", "-a --append-verify", "-aS", "-a --files-from=list", "-a --files-from=list -0", "-a --exclude=x --include=y",
		"-a --filter=-_z", "-a --bwlimit=1.5m", "-a --info=progress2", "-a --delete", "-a --delete-before --delete-excluded", "-a --link-dest=../x", "-a --copy-dest=x",
		"-a --compare-dest=x", "-a --inplace", "-aW", "-a --no-whole-file", "-aR", "-aR --no-implied-dirs", "-ay", "-av", "-avvv --debug=all", "-ai", "-an", "-aL", "-ak", "-aK",
		"-a --copy-unsafe-links", "-a --safe-links", "-a --munge-links", "-axx", "-a --max-size=1m --min-size=1", "-a --timeout=30", "-a --block-size=2048",
		"-a --no-i-r", "-a --protocol=29", "-aUU", "-aOJ", "-aE", "-aC", "-aFF", "-aI", "-a --size-only", "-au", "-a --existing --ignore-existing", "-am",
		"-ab --backup-dir=x --suffix=y", "-d", "-r --no-D", "-rlt", "--list-only", "", "-a --stats -h", "-aP", "-a --out-format=%n", "-a --log-file=x",
		"-a --open-noatime", "-a --ignore-missing-args", "-a --max-alloc=2g", "-a --checksum-seed=3", "-a --stderr=all", "-a -@1", "-a --old-args", "-a --fsync", "-a --super",
		"-a --usermap=1:2", "-a --skip-compress=gz/mp[34] -z", "-a --preallocate", "-a --mkpath", "-a --delay-updates", "-aq", "-a --max-delete=3 --delete", "-HHXXAA -a",
	} {
		line := run(o)
		c, err := Parse(strings.Fields(line))
		if err != nil {
			t.Errorf("%s: %q: %v", o, line, err)
			continue
		}
		again, err := Parse(c.Args())
		if err != nil || !reflect.DeepEqual(again.Args(), c.Args()) {
			t.Errorf("%s: %q becomes %q: %v", o, c.Args(), again.Args(), err)
		}
	}
	for _, o := range []string{"-a --files-from=:/list", "-a --remove-source-files", "-a --copy-devices", "-a --iconv=utf8,latin1", "-a -M--fake-super", "-a -M--log-file=/x", "-a --delete-missing-args", "-a --rsync-path=/bin/rsync"} {
		if c, err := Parse(strings.Fields(run(o))); err == nil {
			t.Errorf("%s is accepted: %q", o, c.Args())
		}
	}
	if _, err := Parse(strings.Fields(run("-as"))); !errors.Is(err, ErrSecluded) {
		t.Errorf("-s: %v", err)
	}
}

// FuzzParse: what is accepted is accepted again and unchanged, and holds nothing dangerous.
func FuzzParse(f *testing.F) {
	f.Add("rsync\x00--server\x00--sender\x00-logDtpre.iLsfxCIvu\x00.\x00/backups/b/d/")
	f.Add("rsync\x00--server\x00--sender\x00-s\x00--backup-dir\x00--daemon\x00.\x00/")
	f.Add("rsync\x00--server\x00--sender\x00--files-from\x00-\x00.\x00/backups/./x")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseSecluded([]string{"rsync"}, strings.Split(s, "\x00"))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		args := c.Args()
		again, err := Parse(args)
		if err != nil || !reflect.DeepEqual(again.Args(), args) {
			t.Fatalf("%q becomes %q: %v", args, again.Args(), err)
		}
		if !reflect.DeepEqual(args[:3], []string{"rsync", "--server", "--sender"}) {
			t.Fatalf("%q", args)
		}
		after := false
		for _, a := range args[3:] {
			name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
			switch {
			case a == "." && !after:
				after = true
			case after && strings.HasPrefix(a, "-"), !after && !strings.HasPrefix(a, "-"):
				t.Fatalf("%q", args)
			case !after && strings.HasPrefix(a, "--") && name != "files-from" && (longOptions[name].drop || longOptions[name] == option{} && !has(name)):
				t.Fatalf("%q holds %s", args, a)
			}
		}
	})
}

func has(name string) bool { _, ok := longOptions[name]; return ok }
