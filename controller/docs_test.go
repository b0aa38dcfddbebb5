package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReasons: docs/troubleshooting.md lists every reason that the controllers set, each as a row
// that tells what to do, and names those of OADP's that they never set.
func TestReasons(t *testing.T) {
	names := map[string]string{} // constant -> word
	for _, m := range regexp.MustCompile(`(?m)^\t(Reason[A-Za-z]+) += "([A-Za-z]+)"`).FindAllStringSubmatch(read(t, "../api/v1alpha1/names.go"), -1) {
		names[m[1]] = m[2]
	}
	var used []string
	for _, dir := range []string{"discovery", "restore"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			for _, m := range regexp.MustCompile(`v1alpha1\.(Reason[A-Za-z]+)`).FindAllStringSubmatch(read(t, f), -1) {
				used = append(used, names[m[1]])
			}
		}
	}
	slices.Sort(used)
	used = slices.Compact(used)
	if len(names) < 20 || len(used) < 15 {
		t.Fatalf("%d reasons, %d used: are the expressions still right?", len(names), len(used))
	}
	doc := read(t, "../docs/troubleshooting.md")
	_, section, ok := strings.Cut(doc, "\n## By reason\n")
	section, _, ok2 := strings.Cut(section, "\n## ")
	if !ok || !ok2 {
		t.Fatal("there is no section by reason")
	}
	table, never, _ := strings.Cut(section, "Reasons of OADP that this controller never sets:")
	for _, r := range names {
		row, unused := strings.Contains(table, "\n| "+r+" |"), regexp.MustCompile(`\b`+r+`\b`).MatchString(never)
		if is := slices.Contains(used, r); is && !row {
			t.Errorf("the controllers set %s, of which docs/troubleshooting.md has no row", r)
		} else if !is && (row || !unused) {
			t.Errorf("the controllers never set %s: say so below the table", r)
		}
	}
}

// TestStates: the same for the states of a volume.
func TestStates(t *testing.T) {
	doc := read(t, "../docs/troubleshooting.md")
	found := regexp.MustCompile(`(?m)^\tRestore[A-Za-z]+ +RestoreState = "([a-z-]+)"`).FindAllStringSubmatch(read(t, "../api/v1alpha1/filerestore.go"), -1)
	if len(found) < 5 {
		t.Fatalf("%d states: is the expression still right?", len(found))
	}
	for _, m := range found {
		if !strings.Contains(doc, "\n| "+m[1]+" |") {
			t.Errorf("docs/troubleshooting.md has no row for %s", m[1])
		}
	}
}

// otherCommand is a command of another program, in a block or in a line, with its flags.
var otherCommand = regexp.MustCompile("(?m)^ {4,}(?:sed|kubectl|velero|rsync)\\b(?:.*\\\\\n)*.*$|`(?:kubectl|velero|rsync) [^`]*`")

// TestDocumentedFlags: what the guides call a flag of the controller is one.
func TestDocumentedFlags(t *testing.T) {
	root := rootCommand()
	others := []string{"holder", "help", "pod-selector"} // the beginning of many, and kubectl's
	found := 0
	for _, name := range []string{"install.md", "rbac.md", "troubleshooting.md"} {
		for _, m := range regexp.MustCompile(`--([a-z]+(?:-[a-z]+)*)`).FindAllStringSubmatch(otherCommand.ReplaceAllString(read(t, "../docs/"+name), ""), -1) {
			found++
			if !slices.Contains(others, m[1]) && root.Flags().Lookup(m[1]) == nil {
				t.Errorf("docs/%s speaks of --%s", name, m[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("%d flags: is the expression still right?", found)
	}
}

// TestLinks: the guides refer to files and headings that exist.
func TestLinks(t *testing.T) {
	for _, name := range []string{"install.md", "rbac.md", "troubleshooting.md", "faults.md", "objects.md", "monitoring.md"} {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(read(t, "../docs/"+name), -1) {
			if _, err := os.Stat(filepath.Join("../docs", m[1])); err != nil {
				t.Errorf("docs/%s: %v", name, err)
			}
		}
	}
}

// TestFaults: each fault that docs/faults.md lists names tests that exist.
func TestFaults(t *testing.T) {
	doc := read(t, "../docs/faults.md")
	rows := 0
	for _, line := range strings.Split(doc, "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| fault") {
			continue
		}
		rows++
		tests := regexp.MustCompile("`([a-z0-9/_]+_test\\.go): ([A-Za-z]+)`").FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range tests {
			source, err := os.ReadFile(filepath.Join("..", m[1]))
			if err != nil || !regexp.MustCompile(`func (\([a-z]+ [*A-Za-z]+\) )?`+m[2]+`\(`).Match(source) {
				t.Errorf("%s has no %s: %v", m[1], m[2], err)
			}
		}
	}
	if rows < 8 {
		t.Errorf("%d faults", rows)
	}
}
