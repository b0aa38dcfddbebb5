package guest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// Files that tests name, below the machine's root.
const (
	Report  = "srv/share/report.odt"      // changes
	Deleted = "data/archive/contract.pdf" // is there before, not after
	Created = "home/ann/new idea.txt"     // is there after, not before
	Small   = "etc/os-release"
)

// churnSteps makes about as many files on each file system.
const churnSteps = 300

// install fills the file systems with what file systems can hold: owners, modes, times to the
// nanosecond, links, holes, attributes, lists and capabilities, devices, and names of any bytes.
func (g *Guest) install(t testing.TB, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	for name, text := range map[string]string{
		Small:                       "NAME=\"Guest Linux\"\nID=guest\nPRETTY_NAME=\"Guest Linux 1\"\n",
		"etc/fstab":                 fmt.Sprintf(fstab, archiveID),
		"etc/hostname":              "web\n",
		"usr/bin/ping":              strings.Repeat("\x7fELF", 5000),
		"home/ann/notes.txt":        "buy milk\n",
		"home/ann/latin1-\xe4\xf6":  "a name that is not UTF-8\n",
		"home/ann/ümlaut and blank": "a name with a blank\n",
		Report:                      strings.Repeat("the quarterly report\n", 4000),
		Deleted:                     strings.Repeat("the contract\n", 9000),
		"data/empty":                "",
	} {
		write(t, at(name), []byte(text))
	}
	for _, dir := range []string{"var", "data/load", "srv/load"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, dir := range []string{"var", "data/load", "srv/load"} {
		if err := fixture.Churn(at(dir), uint64(i), churnSteps, nil); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "chown", "-R", "1000:1000", at("home/ann"))
	fixture.Run(t, "chown", "3000000000:107", at("etc/hostname"))
	fixture.Run(t, "chmod", "u+s,o-rwx", at("usr/bin/ping"))
	fixture.Run(t, "setcap", "cap_net_raw+ep", at("usr/bin/ping"))
	fixture.Run(t, "setfattr", "-n", "security.selinux", "-v", "system_u:object_r:etc_t:s0", at("etc/hostname"))
	fixture.Run(t, "setfattr", "-n", "user.origin", "-v", "scanner", at(Deleted))
	fixture.Run(t, "setfacl", "-m", "u:107:r--", at(Report))
	fixture.Run(t, "ln", at("home/ann/notes.txt"), at("home/ann/same.txt"))
	fixture.Run(t, "ln", "-s", "/srv/share/report.odt", at("home/ann/report"))
	fixture.Run(t, "mknod", at("var/null"), "c", "1", "3")
	fixture.Run(t, "mkfifo", at("var/fifo"))
	when := time.Date(2026, 4, 12, 22, 0, 0, 123456789, time.UTC)
	for _, name := range []string{Report, Deleted, Small} {
		if err := os.Chtimes(at(name), when, when); err != nil {
			t.Fatal(err)
		}
	}
}

// Work is what happens in the machine between two backups: files are changed, deleted, made, moved.
func (g *Guest) Work(t testing.TB, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	write(t, at(Report), []byte(strings.Repeat("the quarterly report, second edition\n", 5000)))
	write(t, at(Created), []byte("an idea\n"))
	WriteBig(t, at(Big))
	if err := os.Remove(at(Deleted)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at("home/ann/notes.txt"), at("home/ann/done.txt")); err != nil {
		t.Fatal(err)
	}
	for i, dir := range []string{"var", "data/load", "srv/load"} {
		later := at(filepath.Join(dir, "later"))
		if err := os.Mkdir(later, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := fixture.Churn(later, uint64(10+i), churnSteps, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// WriteBig writes Big's content: 1 MiB of random data in each 16 MiB, always the same.
func WriteBig(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng, data := rand.NewChaCha8([32]byte{1}), make([]byte, mib)
	for off := int64(0); off < BigSize; off += 16 * mib {
		_, _ = rng.Read(data)
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Ftruncate(int(f.Fd()), BigSize); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
