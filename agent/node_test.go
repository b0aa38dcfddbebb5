package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/kubernetes"

	"vmfr/api/files"
	api "vmfr/api/session"
	"vmfr/test/cluster"
	"vmfr/test/fixture"
)

// nodePatience is for what takes a moment on a quiet machine.
const nodePatience = 60 * time.Second

// cell is a node's agent with a real API server, on which pods are only names: the test runs
// their programs itself, each with a folder for its root.
type cell struct {
	t       testing.TB // the subtest that runs
	top     testing.TB // whose end is the end of all processes
	cp      cluster.ControlPlane
	dir     string // of the agent's socket
	root    string // the agent's
	program string
	agent   *process
	metrics string
	env     []string
	args    []string // of node, besides
	pods    int
	client  kubernetes.Interface
}

func newCell(t testing.TB) *cell {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "sftp", "curl")
	c := &cell{t: t, top: t, cp: cluster.Start(t), dir: t.TempDir(), root: t.TempDir(), program: agent}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(c.cp.Config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	c.connect()
	c.env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: vmfr}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: vmfr-agent, namespace: vmfr}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: vmfr-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: vmfr-agent}
subjects: [{kind: ServiceAccount, name: vmfr-agent, namespace: vmfr}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: vmfr-agent}
rules: [{apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}]
`)
	c.account(c.root, "vmfr", c.accountToken("vmfr", "vmfr-agent", authenticationv1.TokenRequestSpec{}))
	c.start()
	return c
}

func (c *cell) apply(manifest string) {
	c.t.Helper()
	if out, err := c.cp.Kubectl(manifest, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
}

// write writes files below a root.
func (c *cell) write(root, dir string, content map[string]string) {
	c.t.Helper()
	dir = filepath.Join(root, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	for name, text := range content {
		// As the kubelet does, so that nobody reads half of it.
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// account is what Kubernetes mounts for a pod's service account.
func (c *cell) account(root, namespace, token string) {
	ca := c.cp.Config.CAData
	if len(ca) == 0 {
		var err error
		if ca, err = os.ReadFile(c.cp.Config.CAFile); err != nil {
			c.t.Fatal(err)
		}
	}
	c.write(root, "/var/run/secrets/kubernetes.io/serviceaccount", map[string]string{"namespace": namespace, "token": token, "ca.crt": string(ca)})
}

// start starts the agent and waits until it listens.
func (c *cell) start() {
	c.t.Helper()
	// At the API server's address, which is this cell's alone: a free port of 127.0.0.1 can be another process's by now.
	u, err := url.Parse(c.cp.Config.Host)
	if err != nil {
		c.t.Fatal(err)
	}
	c.metrics = net.JoinHostPort(u.Hostname(), "9808")
	c.agent = c.run(append([]string{"node", "--dir", c.dir, "--root", c.root, "--node-name", "node-1", "--listen-metrics", c.metrics, "--max-sessions", "2"}, c.args...)...)
	c.agent.waitLog("waiting for holders")
}

// process is a program of the cell.
type process struct {
	c    *cell
	name string
	cmd  *exec.Cmd
	log  *record
	done chan struct{}
	err  error
}

// record keeps a log and lets others wait for its lines.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (c *cell) run(args ...string) *process {
	c.t.Helper()
	p := &process{c: c, name: strings.Join(args[:min(len(args), 3)], " "), cmd: exec.Command(c.program, args...), log: &record{}, done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stderr, p.cmd.WaitDelay = c.env, p.log, time.Second
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	c.top.Cleanup(func() {
		p.kill(unix.SIGTERM)
		if c.top.Failed() {
			c.top.Logf("%s:\n%s", p.name, p.log)
		}
	})
	return p
}

// kill sends a signal and waits for the end.
func (p *process) kill(s unix.Signal) {
	p.c.t.Helper()
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(nodePatience):
		_ = p.cmd.Process.Kill()
		p.c.t.Errorf("%s did not end after %v:\n%s", p.name, s, p.log)
		<-p.done
	}
}

func (p *process) waitLog(want string) {
	p.c.t.Helper()
	eventually(p.c.t, func() error {
		select {
		case <-p.done:
			p.c.t.Fatalf("%s ended: %v\n%s", p.name, p.err, p.log)
		default:
		}
		if !strings.Contains(p.log.String(), want) {
			return fmt.Errorf("%s has not logged %q:\n%s", p.name, want, p.log)
		}
		return nil
	})
}

// eventually calls f until it gives no error.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	for until := time.Now().Add(nodePatience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// restore is one file restore: its document, keys and pods.
type restore struct {
	c        *cell
	name     string
	doc      *api.Session
	join     []byte
	host     gossh.PublicKey
	identity string // file of the client's key
	password string
	ca       string            // file
	roots    map[string]string // of holders, by part
	holders  map[string]*process
	hostKey  string
	tls      files.Pair
	keys     string
}

// newRestore makes namespaces, service accounts and documents for backups, each of which has
// disks of the modes given.
func (c *cell) newRestore(name string, backups map[string][]api.Mode) *restore {
	c.t.Helper()
	r := &restore{c: c, name: name, join: make([]byte, api.JoinKeyBytes), password: "password-of-" + name, roots: map[string]string{}, holders: map[string]*process{}}
	_, _ = rand.Read(r.join)
	r.doc = &api.Session{
		Version: api.Version, ID: api.ID(r.join), UID: "uid-" + name, Name: name, Namespace: "velero", VM: api.VM{Name: "web", Namespace: "shop"},
		SSH: &api.SSH{}, Browser: &api.Browser{},
	}
	for b, modes := range backups {
		x := api.Backup{Name: b, Timestamp: time.Date(2026, 4, 12, 1, 0, 0, 0, time.UTC)}
		for i, m := range modes {
			x.Disks = append(x.Disks, api.Disk{Name: fmt.Sprintf("disk%d", i), Mode: m})
		}
		r.doc.Backups = append(r.doc.Backups, x)
	}
	dir := c.top.TempDir()
	var client gossh.PublicKey
	r.hostKey, r.host = newSSHKey(c.t)
	var private string
	private, client = newSSHKey(c.t)
	r.keys = string(gossh.MarshalAuthorizedKey(client))
	r.identity, r.ca = filepath.Join(dir, "id"), filepath.Join(dir, "ca.pem")
	ca, err := files.NewAuthority(time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	if r.tls, err = files.NewServer(ca, []string{"127.0.0.1"}, time.Now()); err != nil {
		c.t.Fatal(err)
	}
	for path, text := range map[string]string{r.identity: private, r.ca: string(ca.Cert)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, ns := range append([]string{r.namespace("")}, keys(backups, r.namespace)...) {
		c.holderNamespace(ns)
	}
	c.reportObjects(r.namespace(""), api.ReportName(r.doc.UID))
	r.root("")
	for b := range backups {
		r.root(b)
	}
	return r
}

func keys(m map[string][]api.Mode, f func(string) string) (out []string) {
	for k := range m {
		out = append(out, f(k))
	}
	return out
}

func newSSHKey(t testing.TB) (string, gossh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := gossh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), key
}

// namespace is that of a part's pod.
func (r *restore) namespace(backup string) string {
	return strings.TrimSuffix("vmfr-"+r.name+"-"+backup, "-")
}

// root makes the root folder of a part's pod.
func (r *restore) root(backup string) string {
	c := r.c
	c.t.Helper()
	root := c.top.TempDir()
	r.roots[backup] = root
	ns := r.namespace(backup)
	doc, err := json.Marshal(r.doc)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(root, api.DirSession, map[string]string{api.KeySession: string(doc)})
	c.write(root, api.DirIdentity, map[string]string{api.KeyJoin: string(r.join), api.KeyHostKey: r.hostKey})
	c.write(root, api.DirToken, map[string]string{api.FileToken: c.token(ns, "node-1", api.TokenAudience)})
	if backup == "" {
		c.account(root, ns, c.accountToken(ns, "holder", authenticationv1.TokenRequestSpec{}))
		c.write(root, api.DirSSH, map[string]string{api.KeyUsername: "oadp", api.KeyAuthorizedKeys: r.keys})
		c.write(root, api.DirBrowser, map[string]string{api.KeyUsername: "oadp", api.KeyPassword: r.password})
		c.write(root, api.DirTLS, map[string]string{api.KeyCertificate: string(r.tls.Cert), api.KeyPrivateKey: string(r.tls.Key)})
	}
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(api.DirAgent)), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Symlink(c.dir, filepath.Join(root, api.DirAgent)); err != nil {
		c.t.Fatal(err)
	}
	return root
}

// attach gives a backup's pod a disk: an image file, or a device.
func (r *restore) attach(backup string, index int, image string) {
	c := r.c
	c.t.Helper()
	if strings.HasPrefix(image, "/dev/") {
		at := filepath.Join(r.roots[backup], api.Device(index))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Symlink(image, at); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	dir := filepath.Join(r.roots[backup], api.Volume(index))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Link(image, filepath.Join(dir, "disk.img")); err != nil {
		c.t.Fatal(err)
	}
}

// hold starts the holder of a part.
func (r *restore) hold(backup string) *process {
	r.c.t.Helper()
	args := []string{"hold", "--backup", backup, "--root", r.roots[backup]}
	if backup == "" {
		args = []string{"hold", "--front", "--root", r.roots[backup], "--listen-ssh", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"}
	}
	p := r.c.run(append(args, "--reread", "200ms")...)
	r.holders[backup] = p
	return p
}

var listening = regexp.MustCompile(`msg=listening part=front for=(SSH|HTTPS) address=(\S+)`)

// address is where the front listens.
func (r *restore) address(what string) string {
	r.c.t.Helper()
	p := r.holders[""]
	p.waitLog("for=HTTPS")
	for _, m := range listening.FindAllStringSubmatch(p.log.String(), -1) {
		if m[1] == what {
			return m[2]
		}
	}
	r.c.t.Fatalf("the front does not listen for %s:\n%s", what, p.log)
	return ""
}

// ready waits until all holders that run are ready.
func (r *restore) ready() {
	r.c.t.Helper()
	for b := range r.holders {
		eventually(r.c.t, func() error {
			args := []string{"hold", "--check", "--root", r.roots[b], "--front"}
			if b != "" {
				args = append(args[:4:4], "--backup", b)
			}
			out, err := exec.Command(r.c.program, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s\n%s", b, err, out, r.holders[b].log)
			}
			return nil
		})
	}
}

// sftp runs a batch with a client's key.
func (r *restore) sftp(identity, batch string) (string, error) {
	r.c.t.Helper()
	addr := r.address("SSH")
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("sftp", "-q", "-b", "-", "-F", "none", "-i", identity, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "GlobalKnownHostsFile=none", "-o", "UserKnownHostsFile="+r.knownHosts(addr), "-o", "ConnectTimeout=30", "-P", port, "oadp@"+host)
	cmd.Stdin = strings.NewReader(batch)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// knownHosts makes a file with the session's key at addr, a new one for each client: others may read theirs now.
func (r *restore) knownHosts(addr string) (path string) {
	r.c.t.Helper()
	path = filepath.Join(r.c.t.TempDir(), "known_hosts")
	if err := os.WriteFile(path, []byte(knownHosts(addr, r.host)), 0o600); err != nil {
		r.c.t.Fatal(err)
	}
	return path
}

// curl fetches a path.
func (r *restore) curl(password, path string) ([]byte, error) {
	r.c.t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command("curl", "-sSf", "--noproxy", "*", "--max-time", "60", "--cacert", r.ca, "-u", "oadp:"+password, "https://"+r.address("HTTPS")+path)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out, err
}

// pull compares a file of a disk, by SFTP and by HTTPS.
func (r *restore) pull(backup, disk, file string, want []byte) {
	t := r.c.t
	t.Helper()
	path := "/backups/" + backup + "/" + disk + "/" + file
	to := filepath.Join(t.TempDir(), "pulled")
	if out, err := r.sftp(r.identity, "get "+path+" "+to); err != nil {
		t.Fatalf("sftp: %v\n%s\n%s", err, out, r.c.agent.log)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("sftp: %s has %d bytes, want %d, %v", path, len(got), len(want), err)
	}
	if got, err := r.curl(r.password, "/files"+path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("curl: %s has %d bytes, want %d, %v", path, len(got), len(want), err)
	}
}

// disk makes an ext4 image with one file, which it returns.
func (c *cell) disk(size int) (image string, content []byte) {
	c.t.Helper()
	src := c.t.TempDir()
	content = make([]byte, size)
	_, _ = rand.Read(content)
	if err := os.WriteFile(filepath.Join(src, "file"), content, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return fixture.Ext4(c.t, src, int64(size)+(16<<20)), content
}

// loop makes a block device of an image until the test ends.
func (c *cell) loop(image string) string {
	c.t.Helper()
	dev := strings.TrimSpace(fixture.Run(c.t, "losetup", "--find", "--show", "--read-only", image))
	c.t.Cleanup(func() { fixture.Run(c.t, "losetup", "-d", dev) })
	return dev
}

// workers are the process ids of the agent's workers.
func (c *cell) workers() (pids []int) {
	c.t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.agent.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range children {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(s)
			if cmd, _ := os.ReadFile("/proc/" + s + "/cmdline"); strings.HasSuffix(string(cmd), "\x00"+workCommand+"\x00") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
