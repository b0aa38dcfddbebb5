package pull

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vmfr/test/e2e/guest"
	"vmfr/test/fixture"
)

// serve runs vmfr-agent serve on a machine's disks until the test ends.
func serve(t *testing.T, s guest.State) Server {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "vmfr-agent")
	build := exec.Command("go", "build", "-o", program, "vmfr/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program, "serve", "--json", "--log-level", "warn", "--state", filepath.Join(dir, "state"), "--listen-ssh", "127.0.0.1:0",
		"--listen-https", "127.0.0.1:0", "--disk", "b/web-root="+s.Root, "--disk", "b/web-data="+s.Data+",format=raw")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	var ready struct {
		SSH   struct{ Address, User, IdentityFile, HostKey string }
		HTTPS struct{ URL, User, PasswordFile, CAFile string }
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(ready.HTTPS.URL, "https://"), ":")
	return Server{Host: "localhost", SSH: ready.SSH.Address, HTTPS: "127.0.0.1:" + port, User: ready.SSH.User, Key: ready.SSH.IdentityFile, HostKey: ready.SSH.HostKey,
		Login: ready.HTTPS.User, Password: read(ready.HTTPS.PasswordFile), CA: read(ready.HTTPS.CAFile)}
}

// TestClients: every client gets a machine's files from vmfr-agent serve as the kernel shows them.
func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a machine of 600 MiB")
	}
	fixture.Need(t, "sftp", "scp", "rsync", "curl", "unzip", "tar", "chromium")
	state := guest.New(t).State(t)
	Clients(t, serve(t, state), "/backups/b/web-root", state.Files)
}
