package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// readmeCommands are the commands below a heading of README.md, of all its indented blocks.
func readmeCommands(t testing.TB, heading string) string {
	t.Helper()
	_, section, ok := strings.Cut(read(t, "../README.md"), "\n### "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	var b strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			b.WriteString(command)
		}
	}
	if b.Len() == 0 {
		t.Fatalf("README.md has no commands below %q", heading)
	}
	return b.String()
}

// shell runs commands as an administrator does, and returns what they print. What is in after is
// run in the same shell.
func (e *env) shell(t testing.TB, script string, after ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.Join(append([]string{script}, after...), "\n"))
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"KUBECONFIG=" + e.Kubeconfig, "PATH=" + e.Programs() + ":" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "Warning") {
		t.Fatalf("%v\n%s\nby\n%s", err, out, script)
	}
	return string(out)
}

// needsNode are commands that speak to a running pod, which is not there in these tests.
var needsNode = regexp.MustCompile(`(?m)^(sftp|rsync|curl|kubectl .* port-forward) (.*\\\n)*.*\n`)

// testPullCommands: what README.md asks the status and the Secrets for is there, and is what the
// clients need.
func (e *env) testPullCommands(t *testing.T) {
	commands := readmeCommands(t, "Pull files")
	if n := len(needsNode.FindAllString(commands, -1)); n != 4 {
		t.Errorf("%d commands that need a node", n)
	}
	out := strings.Fields(e.shell(t, needsNode.ReplaceAllString(commands, ""), `
kubectl -n "$ns" get service -o name
stat -c %a id_vmfr
ssh-keygen -yf id_vmfr | cut -d' ' -f1
ssh-keygen -F '[localhost]:2222' -f known_hosts > /dev/null
openssl x509 -in ca.crt -noout
secret fileBrowser username; echo
secret fileBrowser password | wc -c`))
	if len(out) != 5 || !strings.HasPrefix(out[0], "service/vmfr-") || !slices.Equal(out[1:], []string{"600", "ssh-ed25519", "oadp", "24"}) {
		t.Errorf("%q", out)
	}
}

// TestInstallCommands: what README.md has an administrator replace and wait for is what the
// manifests have.
func TestInstallCommands(t *testing.T) {
	commands, install := readmeCommands(t, "Install"), read(t, "../deploy/install.yaml")
	from := regexp.MustCompile(`sed 's\|([^|]+)\|`).FindStringSubmatch(commands)
	if from == nil || strings.Count(install, "image: "+from[1]+"\n") != 2 || strings.Count(install, from[1]) != 3 {
		t.Errorf("%q is replaced, which is not all images of deploy/install.yaml", from)
	}
	waits := regexp.MustCompile(`-n ([a-z-]+) rollout status ([a-z]+)/([a-z-]+)`).FindAllStringSubmatch(commands, -1)
	for _, w := range waits {
		if !slices.ContainsFunc(documents(t, install), func(o *unstructured.Unstructured) bool {
			return o.GetNamespace() == w[1] && strings.EqualFold(o.GetKind(), w[2]) && o.GetName() == w[3]
		}) {
			t.Errorf("there is no %s", w[0])
		}
	}
	if len(waits) != 2 {
		t.Errorf("%d roll-outs are waited for", len(waits))
	}
}

// testDocumentedManifests: each manifest of our kinds in the guides is taken by the API server as
// it is written, unknown fields refused.
func (e *env) testDocumentedManifests(t *testing.T) {
	manifest := regexp.MustCompile(`(?m)^    apiVersion: oadp\.openshift\.io.*\n(    .*\n)+`)
	for doc, want := range map[string]int{"README.md": 2, "docs/restore.md": 1, "docs/discovery.md": 1} {
		found := manifest.FindAllString(read(t, "../"+doc), -1)
		if len(found) != want {
			t.Errorf("%s: %d manifests, want %d", doc, len(found), want)
		}
		for _, text := range found {
			text, _, _ = strings.Cut(strings.ReplaceAll("\n"+text, "\n    ", "\n"), "\nEOF\n")
			if out, err := e.Kubectl(text, "apply", "--dry-run=server", "-f", "-"); err != nil || strings.Contains(out, "Warning") {
				t.Errorf("%s: %v: %s\n%s", doc, err, out, text)
			}
		}
	}
}

// documented are the metrics that docs/monitoring.md has rows for, and those that its alerts use.
func documented(t testing.TB, prefix string) (rows, alerts []string) {
	t.Helper()
	text := read(t, "../docs/monitoring.md")
	tables, rules, ok := strings.Cut(text, "\n## Alerts\n")
	if !ok {
		t.Fatal("docs/monitoring.md has no alerts")
	}
	name := regexp.MustCompile(prefix + `[a-z_]+`)
	for line := range strings.Lines(tables) {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, name.FindAllString(strings.Split(line, "|")[1], -1)...)
		}
	}
	return rows, name.FindAllString(rules, -1)
}

// testMonitoring: the controller exports what docs/monitoring.md says, and nothing of its own besides.
func testMonitoring(t *testing.T, p *controller) {
	text, err := fetch("http://" + p.numbers + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE ([a-z0-9_]+) `).FindAllStringSubmatch(text, -1) {
		exported[m[1]] = true
	}
	rows, alerts := documented(t, `(?:vmfr_(?:build|discover|file)|controller_runtime_|workqueue_|leader_)`)
	if len(rows) < 10 || len(alerts) < 3 {
		t.Fatalf("%d metrics, %d in alerts: is the expression still right?", len(rows), len(alerts))
	}
	for _, name := range slices.Concat(rows, alerts) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if !exported[name] && !exported[base] {
			t.Errorf("docs/monitoring.md speaks of %s, which the controller does not export", name)
		}
	}
	checkSelectors(t, text)
	for name := range exported {
		if strings.HasPrefix(name, "vmfr_") && !slices.Contains(rows, name) {
			t.Errorf("docs/monitoring.md has no row for %s", name)
		}
	}
}

// checkSelectors: what the alerts select by labels is there, or they would never fire, or always.
func checkSelectors(t *testing.T, exported string) {
	t.Helper()
	_, rules, _ := strings.Cut(read(t, "../docs/monitoring.md"), "\n## Alerts\n")
	selectors := regexp.MustCompile(`((?:vmfr_(?:build|discover|file)|controller_runtime_|workqueue_|leader_)[a-z_]+)\{([^}]+)\}`).FindAllStringSubmatch(rules, -1)
	if len(selectors) < 3 {
		t.Errorf("%d selectors in alerts: is the expression still right?", len(selectors))
	}
	for _, s := range selectors {
		found := slices.ContainsFunc(strings.Split(exported, "\n"), func(line string) bool {
			if !strings.HasPrefix(line, s[1]+"{") {
				return false
			}
			for _, m := range regexp.MustCompile(`([a-z]+)(=~?)"([^"]*)"`).FindAllStringSubmatch(s[2], -1) {
				value := regexp.QuoteMeta(m[3])
				if m[2] == "=~" {
					value = "(?:" + m[3] + ")"
				}
				if !regexp.MustCompile(`[{,]` + m[1] + `="` + value + `"`).MatchString(line) {
					return false
				}
			}
			return true
		})
		if !found {
			t.Errorf("docs/monitoring.md: nothing that is exported matches %s", s[0])
		}
	}
}
