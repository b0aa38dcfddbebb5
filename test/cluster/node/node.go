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

	"golang.org/x/sys/unix"

	"vmfr/test/cluster"
	"vmfr/test/cluster/image"
)

// Name is the node's name in its cluster.
const Name = "node"

// The addresses of every node: each has networks of its own.
const (
	Address       = "172.30.0.1" // of the node
	ClientAddress = "172.30.0.2" // outside the cluster
	PodCIDR       = "10.244.0.0/16"
	ServiceCIDR   = "10.96.0.0/16"
	serviceAPI    = "10.96.0.1" // the Service "kubernetes"
	apiPort       = 6443
)

// startLimit is generous: a loaded machine takes two minutes for what an idle one does in ten seconds.
const startLimit = 5 * time.Minute

// Options say how a node is started.
type Options struct {
	Dir      string    // what the node keeps; Down removes it. Empty: a new one in the cache
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
	ID         string   `json:"id"`         // 16 hexadecimal digits; names its control group
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

// Start starts a node and returns when Pods can run. The node ends with Down, or, unless it is
// detached, with this process. A program that calls it begins with Init.
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
	n = &Node{dir: dir, settings: settings{ID: newID(), Kubernetes: programs}}
	defer func() {
		if err != nil {
			_ = lock.Close() // Down takes it
			err = errors.Join(err, Down(context.WithoutCancel(ctx), dir))
		}
	}()
	if err := n.prepare(); err != nil {
		return nil, err
	}
	return n, n.launch(ctx, o, lock, programsLock)
}

// newID names a node among all that a machine ever has.
func newID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails
	return fmt.Sprintf("%x", b)
}

// prepare writes what the node's processes find in its directory.
func (n *Node) prepare() error {
	for _, d := range []string{"config", "images", "log", "pki", "tmp", "var/lib", "var/log"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			return err
		}
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
	b, err := json.Marshal(n.settings)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, settingsFile), b, 0o644)
}

// launch starts init and follows its reports until the node is up.
func (n *Node) launch(ctx context.Context, o Options, lock, programsLock *os.File) error {
	report, reportWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	log, err := os.OpenFile(n.LogPath("node"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName, n.dir, n.settings.ID}
	cmd.Env = n.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{reportFD - 3: reportWriter, lockFD - 3: lock, programsLockFD - 3: programsLock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, // an interrupt from the terminal is not for the node
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if !o.Detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when the thread ends that started the process
		defer runtime.UnlockOSThread()
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
	n.pid = cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = report.Close() })
	defer stop()
	if err := follow(report, o.Log); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("start a node: %w", err)
	}
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
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(b, &n.settings); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if n.pid = findInit(n.settings.ID); n.pid == 0 {
		return nil, fmt.Errorf("%s: %w; %s says why the last one ended", dir, ErrNotRunning, n.LogPath("node"))
	}
	return n, nil
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

// Dir is the node's directory.
func (n *Node) Dir() string { return n.dir }

// Kubeconfig is the path of an administrator's kubeconfig. Its server is reached from the node's
// and the client's network namespaces, not from the machine's.
func (n *Node) Kubeconfig() string { return filepath.Join(n.dir, "pki", "admin.kubeconfig") }

// LogPath is the file of the log of a program: etcd, containerd, kubelet, ..., or "node" for what
// starts them.
func (n *Node) LogPath(program string) string { return filepath.Join(n.dir, "log", program+".log") }

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

// clientNetwork is the client's network namespace as this process sees it.
func (n *Node) clientNetwork() string { return fmt.Sprintf("/proc/%d/fd/%d", n.pid, clientNetFD) }

// environment is this process's, changed for the cluster.
func (n *Node) environment() []string {
	return append(os.Environ(), "KUBECONFIG="+n.Kubeconfig(), DirEnv+"="+n.dir,
		"PATH="+strings.Join([]string{n.settings.Kubernetes, os.Getenv("PATH"), systemPath}, ":"))
}

// LoadImage loads an archive that package image wrote, or any other in Docker's or OCI's format.
// Pods name it by its reference; a pull policy other than Always finds it.
func (n *Node) LoadImage(ctx context.Context, archive string) error {
	return loadImage(ctx, archive, n.Command)
}

// loadImage loads an image's archive into containerd, whose namespaces command runs programs in. It
// returns when kubelet can see the image.
func loadImage(ctx context.Context, archive string, command func(ctx context.Context, name string, args ...string) *exec.Cmd) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not unpacked: the first container does that, with the snapshotter that containerd is configured for.
	load := command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", "-")
	load.Stdin = f
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("load %s: %w: %s", archive, err, bytes.TrimSpace(out))
	}
	return await(ctx, func() error {
		out, err := command(ctx, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet", `labels."io.cri-containerd.image"!=managed`).CombinedOutput()
		if out := bytes.TrimSpace(out); err == nil && len(out) > 0 {
			err = fmt.Errorf("containerd does not tell kubelet of %s yet", out)
		}
		return err
	})
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
