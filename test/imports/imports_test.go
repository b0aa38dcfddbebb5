package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// list returns the module's packages and all that they depend on.
func list(t *testing.T) []Package {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath    string
			Standard      bool
			Imports, Deps []string
		}
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Package{Path: p.ImportPath, Standard: p.Standard, Imports: p.Imports, Deps: p.Deps})
	}
}

// touch asks for the state of every Go file of the module: go test caches a result as long as
// the files that the test itself looked at are unchanged, and it does not see go list's.
func touch(t *testing.T) {
	t.Helper()
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "tmp"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go"):
			return nil
		}
		files++
		_, err = os.Stat(path)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("there are no Go files two folders up")
	}
}

func TestImports(t *testing.T) {
	touch(t)
	all := list(t)
	for _, v := range Violations(all) {
		t.Error(v)
	}
	// Every room of the agent has a place in the line: a new one must be given one.
	for _, p := range all {
		path, ours := strings.CutPrefix(p.Path, module)
		if ours && (path == "agent" || strings.HasPrefix(path, "agent/")) && layerOf(path) < 0 {
			t.Errorf("%s has no place in the line of packages: add it to layers and to ARCHITECTURE.md", path)
		}
	}
	// The list must be what it is taken for, or nothing above could fail.
	seen := make(map[string]Package)
	for _, p := range all {
		seen[p.Path] = p
	}
	if !seen["fmt"].Standard || len(seen["vmfr/agent/engine"].Deps) == 0 || len(seen["vmfr/agent/tree"].Imports) == 0 {
		t.Errorf("go list gave %d packages without what the rules need", len(all))
	}
}

// TestRulesCanFail adds one forbidden import at a time to packages that are otherwise right.
func TestRulesCanFail(t *testing.T) {
	good := []Package{
		{Path: "fmt", Standard: true}, {Path: "unsafe", Standard: true}, {Path: "net/http", Standard: true},
		{Path: "golang.org/x/sys/unix"},
		{Path: "vmfr/agent/extent", Imports: []string{"fmt", "vmfr/agent/ondisk"}},
		{Path: "vmfr/agent/volume", Imports: []string{"vmfr/agent/extent", "vmfr/agent/fsys", "vmfr/agent/probe"}},
		{Path: "vmfr/agent/fsys/ext4", Imports: []string{"vmfr/agent/fsys", "vmfr/agent/fsys/ext4/jbd2", "vmfr/agent/cache"}},
		{Path: "vmfr/agent/tree", Imports: []string{"vmfr/agent/engine", "vmfr/agent/volume"}},
		{Path: "vmfr/sshd", Imports: []string{"vmfr/agent/tree", "vmfr/agent/fsys", "net/http"}, Deps: []string{"net/http", "os/exec"}},
		{Path: "vmfr/agent/worker", Imports: []string{"vmfr/sshd", "vmfr/fusefs", "vmfr/agent/engine"}},
	}
	if v := Violations(good); len(v) > 0 {
		t.Fatalf("allowed imports are flagged: %v", v)
	}
	for _, c := range []struct {
		from, imports, deps, want string
	}{
		{"vmfr/agent/extent", "vmfr/agent/tree", "", "data flows the other way"},
		{"vmfr/agent/ondisk", "vmfr/agent/cache", "", "standard library only"},
		{"vmfr/agent/cache", "golang.org/x/sys/unix", "", "standard library only"},
		{"vmfr/agent/fsys/ext4", "vmfr/agent/volume", "", "its neighbour"},
		{"vmfr/agent/fsys/ext4", "vmfr/agent/fsys/xfs", "", "its neighbour"},
		{"vmfr/agent/fsys", "vmfr/agent/probe", "", "its neighbour"},
		{"vmfr/agent/volume", "vmfr/agent/image", "", "its neighbour"},
		{"vmfr/agent/volume", "vmfr/agent/engine", "", "data flows the other way"},
		{"vmfr/agent/fsys/ext4", "unsafe", "", "imports unsafe"},
		{"vmfr/agent/tree", "vmfr/sshd", "", "data flows the other way"},
		{"vmfr/agent/tree", "", "os/exec", "starts no program"},
		{"vmfr/agent/image", "", "net", "opens no connection"},
		{"vmfr/agent/fsys/ext4", "", "net/netip", "opens no connection"},
		{"vmfr/agent/worker", "", "k8s.io/api/core/v1", "know Kubernetes"},
		{"vmfr/agent/holder", "", "k8s.io/client-go/kubernetes/scheme", "every kind"},
		{"vmfr/agent/holder", "", "vmfr/agent/image", "no guest's byte"},
		{"vmfr/agent/supervisor", "vmfr/agent/holder", "", "its neighbour"},
		{"vmfr/sshd", "vmfr/api/files", "", "its neighbour"},
		{"vmfr/fusefs", "vmfr/sshd", "", "its neighbour"},
		{"vmfr/api/files", "vmfr/agent/volume", "", "sees the tree only"},
		{"vmfr/sshd", "vmfr/agent/engine", "", "sees the tree only"},
		{"vmfr/agent/engine", "vmfr/agent/fsys/fsystest", "", "outside its tests"},
		{"vmfr/agent/engine", "vmfr/test/fixture", "", "outside its tests"},
		{"vmfr/agent/worker", "vmfr/agent", "", "data flows the other way"},
		{"vmfr/agent/engine", "vmfr/bench", "", "no place in the line"},
		{"vmfr/agent/tree", "", "vmfr/controller/plan", "share nothing"},
	} {
		p := Package{Path: c.from}
		if c.imports != "" {
			p.Imports = []string{c.imports}
		}
		if c.deps != "" {
			p.Deps = []string{c.deps}
		}
		v := Violations(append(append([]Package(nil), good...), p))
		if len(v) != 1 || !strings.Contains(v[0], c.want) {
			t.Errorf("%s -> %s%s: %v, want %q", c.from, c.imports, c.deps, v, c.want)
		}
	}
}
