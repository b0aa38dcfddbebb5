package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"vmfr/test/fixture"
)

// program is the controller under test, built once: these tests run it as a pod does.
var program string

func TestMain(m *testing.M) {
	fixture.Main(m, &program, "vmfr/controller")
}

// callLimit ends a program that should have ended by itself.
const callLimit = time.Minute

// call runs the program to its end; env is added to an environment that knows no cluster.
func call(t testing.TB, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	limit := time.AfterFunc(callLimit, func() { _ = cmd.Cancel() })
	defer limit.Stop()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	code, help, stderr := call(t, nil, "--help")
	if code != 0 || stderr != "" {
		t.Fatalf("code %d, %s", code, stderr)
	}
	f := &flags{}
	f.register(rootCommand())
	for _, g := range f.groups {
		if !strings.Contains(help, "\n"+g.title+":\n") {
			t.Errorf("the group %q is not in --help", g.title)
		}
	}
	for _, want := range []string{"Examples:", "  vmfr-controller version", "--holder-image", "Exit codes:"} {
		if !strings.Contains(help, want) {
			t.Errorf("%q is not in --help", want)
		}
	}
	if _, other, _ := call(t, nil, "help"); other != help {
		t.Errorf("help differs from --help:\n%s", other)
	}
	code, out, _ := call(t, nil, "version")
	if code != 0 || !strings.HasPrefix(out, "vmfr-controller test go") {
		t.Errorf("version: %d, %q", code, out)
	}
	code, out, _ = call(t, nil, "policies", "--controller-user", "somebody")
	if code != 0 || strings.Count(out, "kind: ValidatingAdmissionPolicy\n") < 3 || !strings.Contains(out, "somebody") {
		t.Errorf("policies: %d, %s", code, out)
	}
}

// TestFlagsOfPlan keeps what errors and comments of package plan call a flag and what the program
// has as one.
func TestFlagsOfPlan(t *testing.T) {
	root := rootCommand()
	files, err := filepath.Glob("plan/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	flag := regexp.MustCompile(`--([a-z]+(?:-[a-z]+)*)|add\("([a-z-]+)"`)
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range flag.FindAllStringSubmatch(string(b), -1) {
			name := m[1] + m[2]
			if ofAgent[name] {
				continue
			}
			found++
			if root.Flags().Lookup(name) == nil {
				t.Errorf("package plan speaks of --%s, which vmfr-controller does not have", name)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d flags were found in package plan: is the expression still right?", found)
	}
}

// ofAgent are the flags of `vmfr-agent hold`, which package plan writes into pods.
var ofAgent = map[string]bool{"front": true, "backup": true, "check": true}

func TestWrongFlags(t *testing.T) {
	image := "--holder-image=vmfr"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--holder-image is missing"},
		{[]string{image, "extra"}, `"extra" is not expected`},
		{[]string{image, "--no-such"}, "see vmfr-controller --help"},
		{[]string{image, "--max-concurrent-restores=0"}, "--max-concurrent-restores 0: use at least 1"},
		{[]string{image, "--restore-timeout=0s"}, "--restore-timeout 0s: use more than 0"},
		{[]string{image, "--log-level=loud"}, "--log-level"},
		{[]string{image, "--log-format=xml"}, "--log-format"},
		{[]string{image, "--openshift=maybe"}, "use auto, true or false"},
		{[]string{image, "--api-server=here"}, "write IP:PORT"},
		{[]string{image, "--leader-elect-renew-deadline=20s"}, "must be longer than the renew deadline"},
		{[]string{image, "--holder-requests=cpu"}, "write KEY=VALUE"},
		{[]string{image, "--holder-limits=memory=much"}, "write a quantity"},
		{[]string{image, "--holder-limits=memory=1Mi,memory=2Mi"}, "each key once"},
		{[]string{image, "--holder-toleration=a:Never"}, "--holder-toleration"},
		{[]string{image, "--holder-image-pull-policy=Sometimes"}, "use Always, IfNotPresent or Never"},
	} {
		code, _, stderr := call(t, nil, c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: code %d, %q; want one line with %q", c.args, code, stderr, c.want)
		}
	}
	code, _, stderr := call(t, []string{"KUBECONFIG=/nonexistent"}, image)
	if code != exitError || !strings.Contains(stderr, "/nonexistent") {
		t.Errorf("a kubeconfig that is not there: %d, %q", code, stderr)
	}
	code, _, stderr = call(t, nil, image)
	if code != exitError || !strings.Contains(stderr, "give --kubeconfig outside a pod") {
		t.Errorf("outside a pod: %d, %q", code, stderr)
	}
}

func TestTolerations(t *testing.T) {
	for in, want := range map[string]string{
		"*": "/Exists//", "a": "a/Exists//", "a=b": "a/Equal/b/", "a:NoExecute": "a/Exists//NoExecute", "a=:NoSchedule": "a/Equal//NoSchedule",
		"x.y/z=v:PreferNoSchedule": "x.y/z/Equal/v/PreferNoSchedule",
	} {
		got, err := toleration(in)
		text := fmt.Sprintf("%s/%s/%s/%s", got.Key, got.Operator, got.Value, got.Effect)
		if err != nil || text != want {
			t.Errorf("%s: %s, %v; want %s", in, text, err, want)
		}
	}
	for _, in := range []string{"", "=b", ":NoSchedule", "a:Never", "a:"} {
		if got, err := toleration(in); err == nil {
			t.Errorf("%q gives %v", in, got)
		}
	}
}

func TestConfigOfFlags(t *testing.T) {
	f := &flags{}
	root := rootCommand()
	root.ResetFlags()
	f.register(root)
	err := root.Flags().Parse([]string{"--holder-image=i", "--holder-requests=cpu=1,memory=1Gi", "--holder-limits=", "--holder-toleration=*",
		"--holder-toleration=a=b:NoExecute", "--holder-node-selector=disk=fast", "--holder-image-pull-secret=s", "--ingress-class=nginx",
		"--host-template={{.Name}}.x.y", "--ingress-annotation=a=b=c,d", "--api-server=10.0.0.1:6443,[fd00::1]:443"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.check(); err != nil {
		t.Fatal(err)
	}
	c, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(c.Resources.Requests.Cpu(), c.Resources.Requests.Memory(), len(c.Resources.Limits), len(c.Tolerations), c.NodeSelector,
		c.ImagePullSecrets, c.IngressClass, c.HostTemplate, c.IngressAnnotations, c.AgentDir)
	if want := "1 1Gi 0 2 map[disk:fast] [s] nginx {{.Name}}.x.y map[a:b=c,d] /run/vmfr\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if a, err := f.addresses(); err != nil || fmt.Sprint(a) != "[10.0.0.1:6443 [fd00::1]:443]" {
		t.Errorf("%v, %v", a, err)
	}
}

func TestMissing(t *testing.T) {
	err := missingError{[]kind{
		{schema.GroupVersionResource{Group: "g", Version: "v1", Resource: "a"}, "do this"}, {schema.GroupVersionResource{Group: "g", Version: "v1", Resource: "b"}, "do this"},
	}}
	if want := "the cluster does not serve a.g/v1, b.g/v1: do this"; err.Error() != want {
		t.Errorf("%s\nwant %s", err, want)
	}
}
