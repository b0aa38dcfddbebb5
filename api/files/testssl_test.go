package files

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"vmfr/test/fixture"
)

// finding is a line of testssl's report.
type finding struct{ ID, Severity, Finding string }

// TestTestssl lets testssl.sh try protocols, ciphers, forward secrecy and the known
// vulnerabilities: nothing above "low" may be found, and no test may have been left undone.
func TestTestssl(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	fixture.Need(t, "testssl")
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	// Two runs at once, since nearly all of the time is spent waiting for answers that do not come.
	parts := [][]string{{"-p", "-s", "-f"}, {"-U"}}
	var wg sync.WaitGroup
	results, logs := make([][]byte, len(parts)), make([][]byte, len(parts))
	for i, part := range parts {
		wg.Go(func() {
			out := filepath.Join(t.TempDir(), "findings.json")
			cmd := exec.Command("testssl", append([]string{"--quiet", "--color", "0", "--warnings", "batch", "--fast", "--nodns", "none", "--ip", "127.0.0.1", "--jsonfile", out}, append(part, "localhost:"+s.addr[strings.LastIndexByte(s.addr, ':')+1:])...)...)
			cmd.Env = append(os.Environ(), "MAX_WAITSOCK=2", "CCS_MAX_WAITSOCK=2", "HEARTBLEED_MAX_WAITSOCK=2", "USLEEP_SND=0.02", "USLEEP_REC=0.05",
				"RES_OPTIONS=timeout:1 attempts:1") // it asks for a host that is not there, many times
			logs[i], _ = cmd.CombinedOutput() // its status is the number of findings
			results[i], _ = os.ReadFile(out)
		})
	}
	wg.Wait()
	var findings []finding
	for i, b := range results {
		var some []finding
		if err := json.Unmarshal(b, &some); err != nil {
			t.Fatalf("%v\n%s\n%s", err, b, logs[i])
		}
		findings = append(findings, some...)
	}
	ids := map[string]bool{}
	for _, f := range findings {
		ids[f.ID] = true
		if !slices.Contains([]string{"OK", "INFO", "LOW"}, f.Severity) && !strings.HasPrefix(f.ID, "engine_problem") &&
			!(f.Severity == "WARN" && strings.Contains(f.Finding, "local OpenSSL")) { // what openssl has no more, -s tries by itself
			t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	for _, id := range []string{"TLS1", "TLS1_2", "TLS1_3", "cipherlist_AVERAGE", "PFS", "heartbleed", "ROBOT", "BREACH", "LUCKY13", "secure_renego"} {
		if !ids[id] {
			t.Errorf("%s was not tried\n%s", id, logs)
		}
	}
}
