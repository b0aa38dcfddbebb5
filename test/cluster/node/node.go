package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfr/test/cluster"
	"vmfr/test/cluster/image"
)

// startLimit is generous: a loaded machine takes two minutes for what an idle one does in ten seconds.
const startLimit = 5 * time.Minute

// Options say how a cluster's first node is started.
type Options struct {
	Dir      string    // what the cluster keeps; Down removes it. Empty: a new one in the cache
	Detached bool      // whether it outlives this process
	Log      io.Writer // gets a line for each step; nil: none
}

// Node is a running node.
type Node struct {
	dir      string
	settings settings
	pid      int // of init, as this process sees it
}

// settings are the part of a node's state that whoever finds its directory has to know.
type settings struct {
	place
	Kubernetes string   `json:"kubernetes"` // the directory of the programs
	Pause      string   `json:"pause"`      // the image of the container that holds a Pod's namespaces
	Tools      string   `json:"tools"`      // an image of Busybox
	Archives   []string `json:"archives"`   // of these images
}

const settingsFile = "node.json"

// ErrNotRunning is what Open says of a directory without a running node.
var ErrNotRunning = errors.New("no node is running")

// programs are what has to be installed.
var programs = []string{"busybox", "containerd", "containerd-shim-runc-v2", "ctr", "etcd", "ip", "iptables", "mount", "nsenter", "runc", "setpriv"}

// ErrMissing is what Start says where this machine lacks what a node needs.
var ErrMissing = errors.New("a node cannot run here")

// missing tells what a node needs and this machine does not have.
func missing() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it needs root", ErrMissing)
	}
	for _, p := range programs {
		if _, err := lookPath(p); err != nil {
			return fmt.Errorf("%w: the program %s is missing (make deps installs it)", ErrMissing, p)
		}
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "ptp")); err != nil {
		return fmt.Errorf("%w: %w (make deps installs it)", ErrMissing, err)
	}
	return nil
}

// Start starts a cluster's first node, which has its control plane, and returns when Pods can run.
// The cluster ends with Down, or, unless it is detached, with this process. A program that calls it
// begins with Init.
func Start(ctx context.Context, o Options) (n *Node, err error) {
	if err := missing(); err != nil {
		return nil, err
	}
	programs, programsLock, err := cluster.Kubernetes.Use(ctx) // which may build them
	if err != nil {
		return nil, err
	}
	defer programsLock.Close()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	dir, lock, err := claim(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	n = &Node{dir: dir, settings: settings{place: place{newID(), firstNumber}, Kubernetes: programs}}
	defer func() {
		if err != nil {
			_ = lock.Close() // Down takes it
			err = errors.Join(err, Down(context.WithoutCancel(ctx), dir))
		}
	}()
	if err := errors.Join(n.makeImages(), n.prepare()); err != nil {
		return nil, err
	}
	init := process{name: initName, files: map[int]*os.File{lockFD: lock, programsLockFD: programsLock},
		attributes: syscall.SysProcAttr{Setsid: true, Cloneflags: newNamespaces}} // an interrupt from the terminal is not for the node
	if !o.Detached {
		init.attributes.Pdeathsig = syscall.SIGKILL
	}
	return n, n.launch(ctx, init, o.Log)
}

// newID names a cluster among all that a machine ever has.
func newID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails
	return fmt.Sprintf("%x", b)
}

// makeImages makes the images that every node has.
func (n *Node) makeImages() error {
	if err := os.Mkdir(filepath.Join(n.dir, "images"), 0o755); err != nil {
		return err
	}
	for _, i := range []struct {
		make      func() (image.Image, error)
		reference *string
	}{{image.Pause, &n.settings.Pause}, {image.Tools, &n.settings.Tools}} {
		made, err := i.make()
		if err != nil {
			return err
		}
		archive := filepath.Join(n.dir, "images", made.Name+".tar")
		if *i.reference, err = made.Write(archive); err != nil {
			return err
		}
		n.settings.Archives = append(n.settings.Archives, archive)
	}
	return nil
}

// prepare writes what the node's processes find in its directory.
func (n *Node) prepare() error {
	for _, d := range []string{configDir(n.dir), filepath.Dir(n.LogPath("")), filepath.Join(n.dir, "pki"), filepath.Join(n.dir, "tmp"),
		filepath.Join(n.dir, Shared), filepath.Join(n.dir, "/var/log")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	b, err := json.Marshal(n.settings)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, settingsFile), b, 0o644)
}

// process is this program as a node's init, or as what starts that.
type process struct {
	name       string
	files      map[int]*os.File // by the numbers of their descriptors, beside reportFD
	attributes syscall.SysProcAttr
	enter      func() error // on the thread that starts it, which then does nothing else; nil: nothing
}

// launch starts a process and follows its reports until the node is up.
func (n *Node) launch(ctx context.Context, p process, log io.Writer) error {
	report, reportWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	own, err := os.OpenFile(n.LogPath("node"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer own.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{p.name, n.dir, n.settings.id()}
	cmd.Env = n.environment()
	cmd.Stdout, cmd.Stderr = own, own
	cmd.ExtraFiles = make([]*os.File, firstNetFD-2)
	cmd.ExtraFiles[reportFD-3] = reportWriter
	for number, f := range p.files {
		cmd.ExtraFiles[number-3] = f
	}
	cmd.SysProcAttr = &p.attributes
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when the thread ends that started the process
		if p.enter != nil {
			if err := p.enter(); err != nil { // the thread ends with this function
				started <- err
				return
			}
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	err = <-started
	_ = reportWriter.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = report.Close() })
	defer stop()
	if err := follow(report, log); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("start %s: %w", n.Name(), err)
	}
	n.pid = findInit(n.settings.id())
	return nil
}

// follow prints reports until the node is up.
func follow(report io.Reader, log io.Writer) error {
	for d := json.NewDecoder(report); ; {
		var e event
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			return errors.New("its init was killed")
		case err != nil:
			return err
		case e.Error != "":
			return errors.New(e.Error)
		}
		if log != nil {
			_, _ = fmt.Fprintf(log, "%7s  %s\n", e.After.Round(10*time.Millisecond), e.What)
		}
		if e.Up {
			return nil
		}
	}
}

// Open returns the node that runs in dir, or ErrNotRunning.
func Open(dir string) (*Node, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir}
	n.settings, err = readSettings(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	case err != nil:
		return nil, err
	}
	if n.pid = findInit(n.settings.id()); n.pid == 0 {
		return nil, fmt.Errorf("%s: %w; %s says why the last one ended", dir, ErrNotRunning, n.LogPath("node"))
	}
	return n, nil
}

// readSettings reads what prepare has written.
func readSettings(dir string) (s settings, err error) {
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

// findInit returns the process of a node's init, or 0. No process identifier is written down: it
// could be another's by the time it is read, or in another PID namespace.
func findInit(id string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		args := bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0})
		if len(args) == 3 && string(args[0]) == initName && string(args[2]) == id {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// Name is the node's name in its cluster.
func (n *Node) Name() string { return n.settings.Name() }

// Dir is the node's directory.
func (n *Node) Dir() string { return n.dir }

// ClusterDir is its cluster's, which is the first node's.
func (n *Node) ClusterDir() string { return n.settings.clusterDir(n.dir) }

// Kubeconfig is the path of an administrator's kubeconfig. Its server is reached from the nodes'
// and the client's network namespaces, not from the machine's.
func (n *Node) Kubeconfig() string { return kubeconfig(n.ClusterDir()) }

func kubeconfig(cluster string) string { return filepath.Join(cluster, "pki", "admin.kubeconfig") }

// LogPath is the file of the log of a program: etcd, containerd, kubelet, ..., or "node" for what
// starts them. It stays until the cluster ends.
func (n *Node) LogPath(program string) string { return n.settings.logPath(n.dir, program) }

// Pid is the process that is init in the node's namespaces, as this process sees it.
func (n *Node) Pid() int { return n.pid }

// Tools is the reference of an image of Busybox, which is loaded.
func (n *Node) Tools() string { return n.settings.Tools }

// Command is a program in all of the node's namespaces, with KUBECONFIG set and kubectl in PATH.
// It sees the node's own /run, /var/lib and /var/log and all mounts of Pods. It ends with ctx.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// nsenter forks to enter the PID namespace; its child is to end with it.
	enter := []string{"--target", strconv.Itoa(n.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--",
		"setpriv", "--pdeathsig", "KILL", "--", name}
	cmd := exec.CommandContext(ctx, tool("nsenter"), slices.Concat(enter, args)...)
	cmd.Env = n.environment()
	return cmd
}

// ClientCommand is a program outside the cluster: in the client's network namespace and else where
// this process is. It has KUBECONFIG set and kubectl in PATH.
func (n *Node) ClientCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + n.clientNetwork(), "--", name}
	cmd := exec.CommandContext(ctx, tool("nsenter"), slices.Concat(enter, args)...)
	cmd.Env = n.environment()
	return cmd
}

// clientNetwork is the client's network namespace as this process sees it; of the first node alone.
func (n *Node) clientNetwork() string { return fmt.Sprintf("/proc/%d/fd/%d", n.pid, peerNetFD) }

// environment is this process's, changed for the cluster.
func (n *Node) environment() []string {
	return append(os.Environ(), "KUBECONFIG="+n.Kubeconfig(), DirEnv+"="+n.ClusterDir(),
		"PATH="+strings.Join([]string{n.settings.Kubernetes, os.Getenv("PATH"), systemPath}, ":"))
}

// systemPath is where programs of the system are even if the caller's PATH does not say so.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a program in PATH or where the system's are.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for dir := range strings.SplitSeq(systemPath, ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// tool is the path of a program, or its name where it is missing.
func tool(name string) string {
	if path, err := lookPath(name); err == nil {
		return path
	}
	return name
}
