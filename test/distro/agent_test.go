package distro

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// agentPath is the binary under test, built once.
var agentPath string

func TestMain(m *testing.M) { fixture.Main(m, &agentPath, fixture.Agent) }

// agent is a running vmfr-agent serve.
type agent struct{ *fixture.Server }

// startAgent serves with the given disks on free ports and a mount, until the test ends. It
// fails the test if the agent does not end cleanly.
func startAgent(t *testing.T, args ...string) agent {
	t.Helper()
	mount := t.TempDir()
	t.Cleanup(func() {
		if ents, err := os.ReadDir(mount); err != nil || len(ents) > 0 {
			t.Errorf("the mount is still there: %d entries, %v", len(ents), err)
		}
	})
	return agent{fixture.Serve(t, agentPath, append([]string{"--mount", mount}, args...)...)}
}

// sshArgs are the options of sftp and sshfs: the given key, and a host key that is checked.
func (a agent) sshArgs() []string {
	_, port, err := net.SplitHostPort(a.SSH.Address)
	if err != nil {
		panic(err)
	}
	return []string{"-oPort=" + port, "-oIdentityFile=" + a.SSH.IdentityFile, "-oIdentitiesOnly=yes", "-oBatchMode=yes",
		"-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=" + a.SSH.KnownHostsFile}
}

func (a agent) target() string { return a.SSH.User + "@127.0.0.1" }

// other is an image of the same size as the test's disk with one byte set.
func (a agent) other(t *testing.T) string {
	p := filepath.Join(t.TempDir(), "other.raw")
	fixture.Sparse(t, p, diskSize)
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, diskSize/2); err != nil {
		t.Fatal(err)
	}
	return p
}

// inspect runs vmfr-agent inspect on disks that can be read whole.
func inspect(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(agentPath, append([]string{"inspect", "--log-level", "error"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("inspect %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// walkSum runs inspect --walk and returns the sum of the listing.
func walkSum(t *testing.T, disk string) string {
	t.Helper()
	out := inspect(t, "--walk", "--disk", "b/rootdisk="+disk)
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "sha256") {
			f := strings.Fields(line)
			return f[len(f)-1]
		}
	}
	t.Fatalf("inspect --walk prints no sha256:\n%s", out)
	return ""
}
