package pull

import (
	"os"
	"strings"
	"testing"

	"vmfr/test/e2e/guest"
	"vmfr/test/fixture"
)

// serve runs vmfr-agent serve on a machine's disks until the test ends.
func serve(t *testing.T, s guest.State) Server {
	t.Helper()
	ready := fixture.Serve(t, fixture.Program(t, fixture.Agent), "--disk", "b/web-root="+s.Root, "--disk", "b/web-data="+s.Data+",format=raw")
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
