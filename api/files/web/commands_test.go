package web_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chromedp/chromedp"

	"vmfr/test/fixture"
)

// commands runs in bash what the page tells a person to run, letter by letter, against the real
// program: files with hostile names, and the folder that has them.
func (c *chromium) commands(t *testing.T, image string) {
	fixture.Need(t, "go", "rsync", "scp", "curl", "ssh")
	p := serveProgram(t, image)
	own := *c
	own.address = p.url // by another name than the first server's, which has its own cookie
	tb := own.tab(t)
	tb.open("/")
	if s := tb.follow(chromedp.SetValue(chromedp.CSS("input[name=user]"), p.user), chromedp.SetValue(chromedp.CSS("input[name=password]"), p.password),
		chromedp.Click(chromedp.CSS(".login button"))); s != 200 {
		t.Fatalf("login: %d", s)
	}
	lines := func() map[string]string {
		t.Helper()
		tools := eval[[]string](tb, "[...document.querySelectorAll('section:has(.command) h2')].map((e) => e.textContent)")
		texts := eval[[]string](tb, "[...document.querySelectorAll('.command pre')].map((e) => e.textContent)")
		if !slices.Equal(tools, []string{"rsync", "scp", "curl"}) || len(texts) != len(tools) {
			t.Fatalf("the page has %q, %q", tools, texts)
		}
		out := map[string]string{}
		for i := range tools {
			out[tools[i]] = texts[i]
		}
		return out
	}
	want := map[string]string{}
	for _, n := range hostile {
		want[n] = "content of " + fmt.Sprintf("%q", n) + "\n"
	}
	tb.open("/browse" + disk1 + "/hostile")
	tb.do(chromedp.Click(chromedp.CSS("#all")))
	tb.follow(chromedp.Click(chromedp.CSS("button[formaction='/commands']")))
	files := lines()
	tb.open("/browse" + disk1 + "/hostile")
	tb.follow(chromedp.Click(chromedp.CSS("button[formaction='/commands']")))
	folder := lines()
	for what, commands := range map[string]map[string]string{"files": files, "folder": folder} {
		for tool, line := range commands {
			dir := p.bash(t, line)
			if tool == "curl" { // zip has other names for some: their contents are all different
				got := unzip(t, filepath.Join(dir, "backup.zip"))
				for n := range got {
					if strings.HasSuffix(n, "ERRORS.txt") {
						delete(got, n)
					}
				}
				if !slices.Equal(values(got), values(want)) {
					t.Errorf("%s by %s: %q", what, line, got)
				}
				continue
			}
			if what == "folder" {
				dir = filepath.Join(dir, "hostile")
			}
			got := map[string]string{}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				b, err := os.ReadFile(filepath.Join(dir, e.Name()))
				if err != nil {
					t.Fatal(err)
				}
				got[e.Name()] = string(b)
			}
			for n, text := range want {
				if got[n] != text {
					t.Errorf("%s by %s: %q is %q", what, tool, n, got[n])
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s by %s: %d files, want %d", what, line, len(got), len(want))
			}
		}
	}
}

func values(m map[string]string) (out []string) {
	for _, v := range m {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// program is a running vmfr-agent and the settings of a person who uses it.
type program struct {
	url, user, password, ca string
	bin                     string // ssh and scp with the person's key and known hosts, as ~/.ssh/config would have them
}

func serveProgram(t *testing.T, image string) *program {
	t.Helper()
	dir := t.TempDir()
	ready := fixture.Serve(t, fixture.Program(t, fixture.Agent), "--disk", "b1/root="+image+",format=raw")
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	p := &program{
		url: "https://localhost" + ready.HTTPS.URL[strings.LastIndexByte(ready.HTTPS.URL, ':'):], user: ready.HTTPS.User,
		password: strings.TrimSpace(read(ready.HTTPS.PasswordFile)), ca: read(ready.HTTPS.CAFile), bin: filepath.Join(dir, "bin"),
	}
	if err := os.Mkdir(p.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config")
	for name, text := range map[string]string{
		filepath.Join(dir, "known"): "vmfr " + ready.SSH.HostKey + "\n",
		config: "BatchMode yes\nHostKeyAlias vmfr\nStrictHostKeyChecking yes\nUserKnownHostsFile " + filepath.Join(dir, "known") +
			"\nIdentityFile " + ready.SSH.IdentityFile + "\nIdentitiesOnly yes\n",
		filepath.Join(p.bin, "ssh"): "#!/bin/sh\nexec /usr/bin/ssh -F " + config + ` "$@"` + "\n",
		filepath.Join(p.bin, "scp"): "#!/bin/sh\nexec /usr/bin/scp -F " + config + ` "$@"` + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// bash runs a line in a new folder, on a terminal on which the password is typed when it is asked
// for, and returns the folder.
func (p *program) bash(t *testing.T, line string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(p.ca), 0o600); err != nil {
		t.Fatal(err)
	}
	terminal, far := openTerminal(t)
	cmd := exec.Command("bash", "--norc", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+p.bin+":"+os.Getenv("PATH"), "SSH_AUTH_SOCK=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var said bytes.Buffer
	typed := false
	for buf := make([]byte, 4096); ; {
		n, err := terminal.Read(buf) // an error when nobody has the other end any more
		said.Write(buf[:n])
		if !typed && bytes.Contains(said.Bytes(), []byte("password")) {
			typed = true
			if _, err := io.WriteString(terminal, p.password+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v: %s", line, err, said.String())
	}
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openTerminal returns both ends of a pseudo-terminal, see pty(7).
func openTerminal(t *testing.T) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0))
	if err == nil {
		far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}
