package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vmfr/agent/sample"
	"vmfr/test/fixture"
)

// TestSampleStory recovers the deleted document and compares the changed file by every front
// end; the checksums are sha256sum's, taken when the sample was made.
func TestSampleStory(t *testing.T) {
	fixture.Need(t, "sftp", "curl")
	m, err := sample.Load()
	if err != nil {
		t.Fatal(err)
	}
	dir := mountpoint(t)
	s := serve(t, "--sample", "--mount", dir)
	if s.Mount != dir {
		t.Errorf("mount is %q, want %q", s.Mount, dir)
	}
	ways := map[string]func(path string) ([]byte, error){
		"sftp": func(path string) ([]byte, error) {
			to := filepath.Join(t.TempDir(), "file")
			if out, err := s.sftp("get " + path + " " + to + "\n"); err != nil {
				return nil, fmt.Errorf("%w: %s", err, out)
			}
			return os.ReadFile(to)
		},
		"https": func(path string) ([]byte, error) {
			out, err := s.curl("/files" + path)
			return []byte(out), err
		},
		"fuse": func(path string) ([]byte, error) { return os.ReadFile(dir + path) },
	}
	for way, get := range ways {
		for i, image := range m.Images {
			root := "/backups/" + image.Backup + "/" + image.Disk
			for _, path := range []string{m.Deleted, m.Changed} {
				b, err := get(root + path)
				want, there := image.SHA256[path]
				if !there {
					if err == nil {
						t.Errorf("%s: image %d has the deleted %s", way, i, path)
					}
					continue
				}
				if err != nil || sum(b) != want {
					t.Errorf("%s: image %d: %s has sha256 %s (%v), want %s", way, i, path, sum(b), err, want)
				}
			}
		}
	}
	for path, want := range m.Images[1].SHA256 {
		b, err := os.ReadFile(dir + "/backups/" + m.Images[1].Backup + "/" + m.Images[1].Disk + path)
		if err != nil || sum(b) != want {
			t.Errorf("%s: sha256 %s (%v), want %s", path, sum(b), err, want)
		}
	}
	link, err := os.Readlink(dir + "/restores/2026-04-12/" + m.Images[0].Backup + "/" + m.VM)
	if err != nil || link != "../../../backups/"+m.Images[0].Backup {
		t.Errorf("restores link %q, %v", link, err)
	}
	checkMetrics(t, s)
	if code := s.stop(); code != 0 || mounted(t, dir) {
		t.Errorf("SIGTERM: exit code %d, mounted %v\n%s", code, mounted(t, dir), s.stderr)
	}
}

// checkMetrics expects the series after reads by all three front ends.
func checkMetrics(t *testing.T, s *server) {
	t.Helper()
	wanted := []string{
		`vmfr_build_info\{version="test"\} 1`, `vmfr_disks\{state="readable"\} 2`, `vmfr_disks\{state="unreadable"\} 0`,
		`vmfr_operations_total\{frontend="sftp",operation="read"\} [1-9]`, `vmfr_operations_total\{frontend="https",operation="read"\} [1-9]`,
		`vmfr_operations_total\{frontend="fuse",operation="lookup"\} [1-9]`, `vmfr_read_bytes_total\{frontend="sftp"\} [1-9]`,
		`vmfr_read_bytes_total\{frontend="https"\} [1-9]`, `vmfr_read_bytes_total\{frontend="fuse"\} [1-9]`,
		`vmfr_open_files\{frontend="sftp"\} 0`, `vmfr_connections\{frontend="https"\} 1`, `vmfr_errors_total\{kind="not_found"\} [1-9]`,
		`vmfr_errors_total\{kind="corrupt"\} 0`, `vmfr_panics_total 0`, `vmfr_file_opens_total [1-9]`,
		`vmfr_cache_misses_total\{backup="nightly-0413",cache="clusters",disk="rootdisk"\} [1-9]`,
		`vmfr_cache_bytes\{backup="nightly-0413",disk="rootdisk"\} [1-9]`,
		`vmfr_disk_open_seconds_count 2`, `go_goroutines `, `process_resident_memory_bytes `,
	}
	var text string
	eventually(t, func() (err error) { // the server takes a moment to notice that a client has gone
		if text, err = s.curl("/metrics"); err != nil {
			return err
		}
		var lacking []string
		for _, want := range wanted {
			if !regexp.MustCompile("(?m)^" + want).MatchString(text) {
				lacking = append(lacking, want)
			}
		}
		if len(lacking) > 0 {
			return fmt.Errorf("/metrics lacks %q:\n%s", lacking, text)
		}
		return nil
	})
	for _, line := range strings.Split(text, "\n") {
		if name, _, ok := strings.Cut(line, "{"); ok && strings.HasPrefix(name, "vmfr_") {
			base := strings.TrimSuffix(name, "_bucket")
			if !strings.Contains(text, "# HELP "+base+" ") {
				t.Errorf("%s has no help", name)
			}
		}
	}
}

// TestReadyText runs the commands of the text that a person gets, in a shell.
func TestReadyText(t *testing.T) {
	fixture.Need(t, "sftp", "curl", "diff", "bash", "ssh-keygen")
	tests := map[string]struct {
		args []string
		runs int
		want string // in the text
	}{
		"sample":  {[]string{"--sample"}, 3, "deleted /srv/docs/contracts/supplier-agreement.txt"},
		"one way": {[]string{"--sample", "--listen-https", "off"}, 4, "webshop"},
		"disk":    {[]string{"--disk", "b/d=" + guest(t)}, 2, "/backups/b/d/etc/hosts"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "a state") // quoting matters
			args := append([]string{"serve", "--listen-ssh", "127.0.0.1:0", "--listen-https", "127.0.0.1:0", "--state", state}, test.args...)
			s, text := startText(t, args...)
			if !strings.Contains(text, test.want) {
				t.Errorf("the text lacks %q:\n%s", test.want, text)
			}
			// ssh-keygen prints bits, fingerprint, hosts and type for each line.
			if f := strings.Fields(fixture.Run(t, "ssh-keygen", "-lf", filepath.Join(state, "known_hosts"))); len(f) < 2 || !strings.Contains(text, "the fingerprint "+f[1]+".\n") {
				t.Errorf("the text lacks the fingerprint %q:\n%s", f, text)
			}
			runs, dir := 0, t.TempDir()
			for _, line := range strings.Split(text, "\n") {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "sftp ") && !strings.HasPrefix(line, "curl ") && !strings.HasPrefix(line, "diff ") {
					continue
				}
				runs++
				line, shows := strings.CutSuffix(line, "; diff before.conf after.conf")
				cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				if strings.HasPrefix(line, "diff ") {
					shows, err = true, nil
				}
				if err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
				if shows {
					before, _ := os.ReadFile(dir + "/before.conf")
					after, _ := os.ReadFile(dir + "/after.conf")
					if !bytes.Contains(before, []byte(":8080;")) || !bytes.Contains(after, []byte(":8008;")) {
						t.Errorf("%s: before %q, after %q", line, before, after)
					}
				}
			}
			if runs != test.runs {
				t.Errorf("%d commands, want %d:\n%s", runs, test.runs, text)
			}
			s.stop()
		})
	}
}

// startText starts serve without --json and returns all that it prints.
func startText(t *testing.T, args ...string) (*server, string) {
	t.Helper()
	s, out := launch(t, args...)
	var text strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(text.String(), "Ctrl-C"); {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("not ready: %v\n%s", err, text.String())
		}
	}
	return s, text.String()
}

// TestStateIsKept: a second run has the same keys, and nobody else may read them.
func TestStateIsKept(t *testing.T) {
	fixture.Need(t, "curl", "sftp")
	state := filepath.Join(t.TempDir(), "vmfr")
	first := serve(t, "--sample", "--state", state)
	first.stop()
	before := map[string]string{}
	entries, err := os.ReadDir(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v; want 0600", e.Name(), info.Mode(), err)
		}
		b, err := os.ReadFile(filepath.Join(state, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		before[e.Name()] = string(b)
	}
	if st, err := os.Stat(state); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v; want 0700", st.Mode(), err)
	}
	if p := strings.TrimSpace(before["password"]); len(p) != 24 {
		t.Errorf("the password has %d characters, want 24", len(p))
	}
	second := serve(t, "--sample", "--state", state)
	for name, content := range before {
		b, err := os.ReadFile(filepath.Join(state, name))
		if err != nil || (string(b) != content && name != fileKnownHosts) {
			t.Errorf("%s was changed by the second run (%v)", name, err)
		}
	}
	// With the first run's known_hosts: the port is another one, the key is not.
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(before[fileKnownHosts]), 0o600); err != nil {
		t.Fatal(err)
	}
	second.SSH.KnownHostsFile = known
	if out, err := second.sftp("ls /\n"); err != nil || !strings.Contains(out, "README.txt") {
		t.Errorf("sftp with the first run's known_hosts: %v\n%s", err, out)
	}
	// Negative control: another host key is refused.
	other := serve(t, "--sample")
	other.SSH.KnownHostsFile, other.SSH.IdentityFile = known, second.SSH.IdentityFile
	if out, err := other.sftp("ls /\n"); err == nil {
		t.Errorf("sftp accepted a foreign host key\n%s", out)
	}
	if _, err := second.curl("/api/v1/backups"); err != nil {
		t.Error(err)
	}
}

// TestOwnCredentials: files that the user gives replace what would be generated.
func TestOwnCredentials(t *testing.T) {
	fixture.Need(t, "curl", "sftp", "ssh-keygen")
	dir := t.TempDir()
	key, password := filepath.Join(dir, "key"), filepath.Join(dir, "pw")
	fixture.Run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	if err := os.WriteFile(password, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	s := serve(t, "--sample", "--state", state, "--authorized-keys", key+".pub", "--password-file", password, "--user", "me")
	if s.SSH.IdentityFile != "" || s.HTTPS.PasswordFile != password || s.SSH.User != "me" {
		t.Errorf("ready: %s", s.line)
	}
	for _, name := range []string{filePassword, fileClientKey} {
		if _, err := os.Stat(filepath.Join(state, name)); err == nil {
			t.Errorf("%s was generated although another one is used", name)
		}
	}
	s.SSH.IdentityFile = key
	if out, err := s.sftp("ls /\n"); err != nil {
		t.Errorf("sftp: %v\n%s", err, out)
	}
	if _, err := s.curl("/files/README.txt"); err != nil {
		t.Error(err)
	}
}
