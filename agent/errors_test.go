package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestErrors: every mistake is one line on standard error that says what to do next, and an
// exit code that tells a wrong command line (2) from a failure (1).
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	disk := "--disk=b/d=" + file("disk.raw", strings.Repeat("x", 4096), 0o600)
	raw := strings.TrimPrefix(disk, "--disk=b/d=")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Close() }) // after the parallel subtests
	open := filepath.Join(dir, "open-state")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	// A state folder for each kind of damage.
	damaged := func(name, content string, mode os.FileMode) string {
		d, err := os.MkdirTemp(dir, "state")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return "--state=" + d
	}
	free := []string{"--listen-ssh=127.0.0.1:0", "--listen-https=127.0.0.1:0"}
	serve := func(args ...string) []string { return append(append([]string{"serve"}, free...), args...) }
	tests := []struct {
		name string
		args []string
		code int
		want string // pattern
	}{
		{"no disk", []string{"serve"}, 2, `no disk: .*--disk.*--dir.*--sample`},
		{"no disk to inspect", []string{"inspect"}, 2, `no disk: .*--disk`},
		{"no disk to mount", []string{"mount", dir}, 2, `no disk: .*--disk`},
		{"no folder to mount at", []string{"mount", disk}, 2, `one folder .*--help`},
		{"unknown command", []string{"frobnicate"}, 2, `frobnicate.*--help`},
		{"unknown flag", []string{"serve", "--frobnicate"}, 2, `frobnicate.*--help`},
		{"extra word", []string{"serve", disk, "word"}, 2, `"word" is not expected`},
		{"missing file", serve("--disk=b/d=" + dir + "/missing.raw"), 1, `b/d: .*missing\.raw.*no such file.*check the path`},
		{"missing file to inspect", []string{"inspect", "--disk=b/d=" + dir + "/missing.raw"}, 1, `missing\.raw.*no such file`},
		{"folder as disk", serve("--disk=b/d=" + dir), 1, `is a folder; .*--dir`},
		{"device as disk", serve("--disk=b/d=/dev/null"), 1, `neither a regular file nor a block device`},
		{"unknown format", serve("--disk=b/d=" + raw + ",format=vmdk"), 2, `format "vmdk" is unknown, known are raw and qcow2`},
		{"unknown option", serve("--disk=b/d=" + raw + ",cache=off"), 2, `option "cache" is unknown`},
		{"no equals sign", serve("--disk=b/d"), 2, `BACKUP/DISK=PATH`},
		{"no slash", serve("--disk=d=" + raw), 2, `needs a '/'`},
		{"no path", serve("--disk=b/d="), 2, `path is empty`},
		{"bad backup name", serve("--disk=../d=" + raw), 2, `backup name`},
		{"bad disk name", serve("--disk=b/d/e=" + raw), 2, `disk name`},
		{"same disk twice", serve(disk, disk), 2, `b/d is given twice`},
		{"sample's name taken", serve("--sample", "--disk=nightly-0412/rootdisk="+raw), 2, `nightly-0412/rootdisk.*another name`},
		{"bad VM", serve(disk, "--vm=a/b"), 2, `VM name "a/b"`},
		{"bad timestamp", serve(disk, "--timestamp=b=yesterday"), 2, `2026-04-12T02:00:00Z`},
		{"timestamp of no backup", serve(disk, "--timestamp=c=2026-04-12T02:00:00Z"), 2, `no backup of that name; backups are b`},
		{"missing dir", serve("--dir=" + dir + "/missing"), 1, `--dir: .*missing`},
		{"busy SSH port", []string{"serve", disk, "--listen-https=off", "--listen-ssh=" + busy.Addr().String(), "--state=" + dir + "/s1"}, 1, `--listen-ssh: .* in use .*another port`},
		{"busy HTTPS port", []string{"serve", disk, "--listen-ssh=off", "--listen-https=" + busy.Addr().String(), "--state=" + dir + "/s1"}, 1, `--listen-https: .* in use .*another port`},
		{"malformed address", []string{"serve", disk, "--listen-ssh=2222"}, 2, `--listen-ssh "2222": write ADDRESS:PORT`},
		{"malformed port", []string{"serve", disk, "--listen-ssh=127.0.0.1:port"}, 2, `ADDRESS:PORT`},
		{"nothing to serve by", []string{"serve", disk, "--listen-ssh=off", "--listen-https=off"}, 2, `nothing to serve by`},
		{"bad user", serve(disk, "--user=a:b"), 2, `--user "a:b"`},
		{"bad log level", serve(disk, "--log-level=loud"), 2, `--log-level "loud": use debug`},
		{"bad log format", serve(disk, "--log-format=xml"), 2, `--log-format "xml": use text or json`},
		{"state open to others", serve(disk, "--state="+open), 1, `open to others .*chmod 700`},
		{"state in a file", serve(disk, "--state="+raw), 1, `state folder: .*--state DIR`},
		{"corrupt client key", serve(disk, damaged("id_ed25519", "garbage", 0o600)), 1, `id_ed25519 is damaged: .*remove it`},
		{"corrupt host key", serve(disk, damaged("ssh_host_ed25519_key", "garbage", 0o600)), 1, `ssh_host_ed25519_key is damaged`},
		{"readable host key", serve(disk, damaged("ssh_host_ed25519_key", "garbage", 0o640)), 1, `read by others \(mode 0640\).*chmod 600`},
		{"readable password", serve(disk, damaged("password", "correct horse battery\n", 0o644)), 1, `password can be read by others`},
		{"short password", serve(disk, damaged("password", "short\n", 0o600)), 1, `password is damaged: .*at least 12`},
		{"corrupt authority", serve(disk, func() string {
			s := damaged("ca.pem", "garbage", 0o600)
			if err := os.WriteFile(filepath.Join(strings.TrimPrefix(s, "--state="), "ca-key.pem"), []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
			return s
		}()), 1, `ca\.pem cannot be used: .*remove it`},
		{"authority without its key", serve(disk, damaged("ca.pem", "garbage", 0o600)), 1, `ca-key\.pem`},
		{"missing authorized keys", serve(disk, "--state="+dir+"/s1", "--authorized-keys="+dir+"/missing"), 1, `--authorized-keys: .*missing`},
		{"no authorized key", serve(disk, "--state="+dir+"/s1", "--authorized-keys="+file("empty", "", 0o600)), 1, `no key found`},
		{"missing password file", serve(disk, "--state="+dir+"/s1", "--password-file="+dir+"/missing"), 1, `--password-file: .*missing`},
		{"readable password file", serve(disk, "--state="+dir+"/s1", "--password-file="+file("pw", "correct horse battery\n", 0o644)), 1, `can be read by others`},
		{"mount point missing", []string{"mount", disk, dir + "/missing"}, 1, `mount point: .*create the directory`},
		{"mount point in use", []string{"mount", disk, dir}, 1, `not empty`},
		{"listing without walk", []string{"inspect", disk, "--listing=x"}, 2, `need --walk`},
		{"bad limit", []string{"inspect", disk, "--walk", "--max-objects=0"}, 2, `--max-objects`},
		{"empty dir", serve("--dir=" + open), 1, `holds no image; expected .*<backup>`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := call(t, test.args...)
			if r.code != test.code {
				t.Errorf("exit code %d, want %d", r.code, test.code)
			}
			if !regexp.MustCompile("^vmfr-agent: .*" + test.want + ".*\n$").MatchString(r.stderr) {
				t.Errorf("standard error %q, want one line that matches %s", r.stderr, test.want)
			}
			if r.stdout != "" {
				t.Errorf("standard output %q, want none", r.stdout)
			}
		})
	}
}

// TestHelp: every command tells how it is used, on standard output, with examples.
func TestHelp(t *testing.T) {
	tests := map[string][]string{
		"":        {"serve", "mount", "inspect", "version", "Exit codes"},
		"serve":   {"--disk", "--dir", "--sample", "--listen-ssh", "--listen-https", "--user", "--authorized-keys", "--password-file", "--state", "--mount", "--allow-other", "--default-permissions", "--vm", "--timestamp", "--json", "--log-format", "--log-level", "127.0.0.1:2222", "127.0.0.1:8443", "oadp"},
		"mount":   {"--disk", "--dir", "--allow-other", "--default-permissions"},
		"inspect": {"--disk", "--dir", "--json", "--walk", "--listing", "--max-objects", "--max-bytes", "--progress", "Exit code 3"},
		"version": nil,
	}
	for command, want := range tests {
		r := call(t, append(strings.Fields(command), "--help")...)
		if r.code != 0 || r.stderr != "" {
			t.Errorf("%s --help: exit code %d, standard error %q", command, r.code, r.stderr)
		}
		for _, w := range append(want, "Usage:", "Examples:\n  vmfr-agent "+command) {
			if !strings.Contains(r.stdout, w) {
				t.Errorf("%s --help lacks %q", command, w)
			}
		}
	}
	if r := call(t, "version"); r.code != 0 || !strings.HasPrefix(r.stdout, "vmfr-agent test go") {
		t.Errorf("version: %+v", r)
	}
}
