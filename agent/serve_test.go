package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vmfr/agent/sample"
	"vmfr/test/fixture"
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

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
	text, err := s.curl("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`vmfr_build_info\{version="test"\} 1`, `vmfr_disks\{state="readable"\} 2`, `vmfr_disks\{state="unreadable"\} 0`,
		`vmfr_operations_total\{frontend="sftp",operation="read"\} [1-9]`, `vmfr_operations_total\{frontend="https",operation="read"\} [1-9]`,
		`vmfr_operations_total\{frontend="fuse",operation="lookup"\} [1-9]`, `vmfr_read_bytes_total\{frontend="sftp"\} [1-9]`,
		`vmfr_read_bytes_total\{frontend="https"\} [1-9]`, `vmfr_read_bytes_total\{frontend="fuse"\} [1-9]`,
		`vmfr_open_files\{frontend="sftp"\} 0`, `vmfr_connections\{frontend="https"\} 1`, `vmfr_errors_total\{kind="not_found"\} [1-9]`,
		`vmfr_errors_total\{kind="corrupt"\} 0`, `vmfr_panics_total 0`, `vmfr_file_opens_total [1-9]`,
		`vmfr_cache_misses_total\{backup="nightly-0413",cache="clusters",disk="rootdisk"\} [1-9]`,
		`vmfr_cache_bytes\{backup="nightly-0413",disk="rootdisk"\} [1-9]`,
		`vmfr_disk_open_seconds_count 2`, `go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !regexp.MustCompile("(?m)^" + want).MatchString(text) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
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
	fixture.Need(t, "sftp", "curl", "diff", "bash")
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
	s := &server{t: t, cmd: command(t, args...), stderr: &bytes.Buffer{}}
	s.cmd.Stderr = s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !s.ended {
			s.stop()
		}
	})
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

// TestDirectory: --dir takes images, and nothing that lies outside of it.
func TestDirectory(t *testing.T) {
	fixture.Need(t, "qemu-img", "curl")
	img, root := guest(t), t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside.raw")
	b := filepath.Join(root, "monday")
	if err := os.MkdirAll(b, 0o755); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "cp", "--sparse=always", img, filepath.Join(b, "a.raw"))
	fixture.Run(t, "cp", "--sparse=always", img, outside)
	fixture.Run(t, "qemu-img", "convert", "-O", "qcow2", img, filepath.Join(b, "b.qcow2"))
	fixture.Run(t, "qemu-img", "convert", "-O", "qcow2", img, filepath.Join(b, "c.img"))
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", filepath.Join(b, "d.qcow2"))
	fixture.Run(t, "ln", "-s", "a.raw", filepath.Join(b, "inside.raw"))
	fixture.Run(t, "ln", "-s", outside, filepath.Join(b, "escape.raw"))
	fixture.Run(t, "ln", "-s", filepath.Dir(outside), filepath.Join(root, "escape"))
	for _, name := range []string{"monday/notes.txt", "stray", "monday/.hidden.raw", "monday/bad name.raw"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(b, "broken.qcow2"), []byte("no qcow2"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--dir", root, "--vm", "shop", "--timestamp", "monday=2026-04-13T02:00:00Z")
	for _, disk := range []string{"a", "b", "c", "d", "inside"} {
		if out, err := s.curl("/files/backups/monday/" + disk + "/etc/hosts"); err != nil || out != "127.0.0.1 localhost\n" {
			t.Errorf("%s: %q, %v", disk, out, err)
		}
	}
	if out, err := s.curl("/files/backups/monday/broken/ERROR.txt"); err != nil || !strings.Contains(out, "What to do") {
		t.Errorf("ERROR.txt: %q, %v", out, err)
	}
	if out, err := s.curl("/files/restores/2026-04-13/monday/shop/a/etc/hosts"); err != nil {
		t.Errorf("by date and VM: %q, %v", out, err)
	}
	list, err := s.curl("/api/v1/backups")
	if err != nil || strings.Contains(list, "escape") || strings.Count(list, `"state"`) != 6 {
		t.Errorf("backups: %v\n%s", err, list)
	}
	s.stop()
	for _, path := range []string{"monday/notes.txt", "stray", "monday/escape.raw", "bad name.raw", "/escape err="} {
		if !strings.Contains(s.stderr.String(), path) {
			t.Errorf("the log does not mention %s:\n%s", path, s.stderr)
		}
	}
	if strings.Contains(s.stderr.String(), ".hidden") {
		t.Errorf("the log mentions a hidden file:\n%s", s.stderr)
	}
}

// TestManyDisks opens thirty disks, good and bad.
func TestManyDisks(t *testing.T) {
	fixture.Need(t, "curl")
	img := guest(t)
	garbage := filepath.Join(t.TempDir(), "garbage.raw")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("garbage."), 1<<14), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for i := range 30 {
		path := img
		if i%10 == 3 {
			path = garbage
		}
		args = append(args, "--disk", fmt.Sprintf("b%d/d%d=%s,format=raw", i%3, i, path))
	}
	s := serve(t, args...)
	text, err := s.curl("/metrics")
	if err != nil || !strings.Contains(text, `vmfr_disks{state="readable"} 27`) || !strings.Contains(text, `vmfr_disks{state="unreadable"} 3`) {
		t.Errorf("states: %v", err)
	}
	if out, err := s.curl("/readyz"); err != nil || out != "ready\n" {
		t.Errorf("readyz: %q, %v", out, err)
	}
	s.stop()
	if !strings.Contains(s.stderr.String(), "a disk is not fully readable") {
		t.Errorf("the log does not mention the bad disks:\n%s", s.stderr)
	}
}

// bigDisk makes a raw disk image of incompressible bytes.
func bigDisk(t testing.TB, size int) (path, sha string) {
	t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	path = filepath.Join(t.TempDir(), "big.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, sum(b)
}

// slowRead starts curl at a limited rate and returns it when bytes have arrived.
func slowRead(t *testing.T, s *server, rate, url string) (*exec.Cmd, io.Reader) {
	t.Helper()
	password, err := os.ReadFile(s.HTTPS.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "curl", "-sf", "--noproxy", "*", "--limit-rate", rate, "--cacert", s.HTTPS.CAFile,
		"-u", s.HTTPS.User+":"+strings.TrimSpace(string(password)), s.HTTPS.URL+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err != nil {
		t.Fatal(err)
	}
	return cmd, io.MultiReader(bytes.NewReader(first), out)
}

// TestTermination: a transfer that can end in time does, one that cannot is cut off, and the
// mount is gone either way, although a file on it is open.
func TestTermination(t *testing.T) {
	fixture.Need(t, "curl")
	const size = 24 << 20
	path, want := bigDisk(t, size)
	tests := []struct {
		name  string
		rate  string
		whole bool
	}{
		{"a transfer of two seconds", "12M", true},
		{"a transfer that takes too long", "1600k", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := mountpoint(t)
			s := serve(t, "--disk", "b/d="+path+",format=raw", "--mount", dir)
			held, err := os.Open(dir + "/disks/b/d.raw")
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			cmd, out := slowRead(t, s, test.rate, "/files/disks/b/d.raw")
			got := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(out)
				got <- b
			}()
			start := time.Now()
			if code := s.stop(); code != 0 {
				t.Errorf("exit code %d\n%s", code, s.stderr)
			}
			took := time.Since(start)
			b := <-got
			err = cmd.Wait()
			if took > 10*time.Second {
				t.Errorf("ending took %v, want at most 10 s", took)
			}
			if whole := err == nil && sum(b) == want; whole != test.whole {
				t.Errorf("whole: %v (%d bytes, %v), want %v", whole, len(b), err, test.whole)
			}
			if !test.whole && err == nil {
				t.Error("curl took a cut-off transfer for a whole one")
			}
			if mounted(t, dir) {
				t.Error("still mounted")
			}
		})
	}
}

// TestSecondSignal ends the program at once.
func TestSecondSignal(t *testing.T) {
	fixture.Need(t, "curl")
	path, _ := bigDisk(t, 8<<20)
	s := serve(t, "--disk", "b/d="+path+",format=raw")
	cmd, out := slowRead(t, s, "100k", "/files/disks/b/d.raw")
	go func() { _, _ = io.Copy(io.Discard, out) }()
	// The second signal counts when the first was noticed: the port no longer answers.
	start := time.Now()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.curl("/healthz", "--max-time", "1"); err != nil {
			break
		}
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := s.wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("ended after %v", took)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// memoryLimit is what one served disk may take, in bytes.
const memoryLimit = 80 << 20

// TestMemory reads a compressed image by SFTP and HTTPS at once and looks at the peak.
func TestMemory(t *testing.T) {
	fixture.Need(t, "qemu-img", "curl", "sftp")
	// Half a byte of information in each byte: all clusters are stored compressed.
	raw, _ := bigDisk(t, 48<<20)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] &= 15
	}
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want := sum(b)
	img := filepath.Join(t.TempDir(), "d.qcow2")
	fixture.Run(t, "qemu-img", "convert", "-c", "-O", "qcow2", raw, img)
	s := serve(t, "--disk", "b/d="+img+",format=qcow2")
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			out, err := s.curl("/files/disks/b/d.raw")
			if err == nil && sum([]byte(out)) != want {
				err = fmt.Errorf("reader %d got other bytes", i)
			}
			done <- err
		}()
	}
	to := filepath.Join(t.TempDir(), "got")
	if out, err := s.sftp("get /disks/b/d.raw " + to + "\n"); err != nil {
		t.Errorf("sftp: %v\n%s", err, out)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := s.curl("/metrics"); err != nil || !regexp.MustCompile(`vmfr_cache_misses_total\{backup="b",cache="clusters",disk="d"\} [1-9]`).MatchString(text) {
		t.Errorf("no cluster was inflated: the test shows nothing (%v)", err)
	}
	peak, _ := strconv.ParseInt(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status))[1], 10, 64)
	t.Logf("peak of resident memory: %d KiB", peak)
	if peak<<10 > memoryLimit {
		t.Errorf("peak of resident memory %d KiB, want at most %d", peak, memoryLimit>>10)
	}
}
