//go:build guestfs

package helper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
	"libguestfs.org/guestfs"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/guestfs/wire"
)

// Run answers the requests of the process that started this one until the socket ends.
func Run() error {
	dir, err := Confine()
	if err != nil {
		return err
	}
	probe()
	unix.CloseOnExec(sandbox.Socket)
	f := os.NewFile(sandbox.Socket, "engine")
	if f == nil {
		return errors.New("there is no socket to answer on")
	}
	defer f.Close()
	g, err := guestfs.Create()
	if err != nil {
		return fmt.Errorf("libguestfs: %w", err)
	}
	h := &helper{g: g, dir: dir, disks: cmp.Or(os.Getenv(sandbox.EnvDisks), dir), conn: wire.NewConn(f), requests: make(chan wire.Request, maxQueued)}
	go h.receive()
	err = h.serve()
	if e := g.Close(); err == nil && e != nil {
		err = e
	}
	return err
}

// maxQueued bounds the requests that wait: libguestfs serves one at a time.
const maxQueued = 64

type helper struct {
	g        *guestfs.Guestfs
	dir      string // the process's own
	disks    string // where the disks' sockets are
	conn     *wire.Conn
	requests chan wire.Request
	mapped   int // encrypted devices that were opened
	lost     bool
}

// receive queues requests. When the engine has gone, nobody waits for what libguestfs is busy
// with: the process ends at once, and with it the appliance.
func (h *helper) receive() {
	for {
		var r wire.Request
		if _, err := h.conn.Receive(&r); err != nil {
			if errors.Is(err, wire.ErrFrame) {
				fmt.Fprintln(os.Stderr, err)
			}
			os.Exit(0)
		}
		h.requests <- r
	}
}

// serve answers one request after the other; it ends when the appliance is lost.
func (h *helper) serve() error {
	for r := range h.requests {
		if err := h.answer(r); err != nil {
			return err
		}
		if h.lost {
			return errors.New("the appliance has ended")
		}
	}
	return nil
}

// answer does what r asks for and replies. An error is one of the connection.
func (h *helper) answer(r wire.Request) error {
	reply := wire.Reply{ID: r.ID}
	var payload []byte
	var err error
	switch r.Op {
	case wire.Probe:
		reply.KVM = probeKVM(context.Background(), qemu(), h.dir, probeLimit) == nil
	case wire.Start:
		err = h.start(r)
	case wire.Scan:
		reply.Volumes, err = h.scan(r.Keys)
	case wire.Mount:
		reply.Mounted, err = h.mount(r)
	case wire.ReadD:
		err = h.list(r)
	case wire.Stat:
		err = h.batch(r, h.stat)
	case wire.Xattrs:
		err = h.batch(r, h.xattrs)
	case wire.Read:
		payload, err = h.read(r)
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	var broken *connError
	if errors.As(err, &broken) {
		return broken.err
	}
	if err != nil {
		reply.Err, payload = h.describe(err), nil
		reply.Lost = h.lost
	}
	if err := h.conn.Send(&reply, payload); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// connError is an error of the connection, not of the request.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }

// describe turns an error of libguestfs into a reply's, and notices the appliance's end.
func (h *helper) describe(err error) *wire.Error {
	if ready, e := h.g.Is_ready(); e != nil || !ready {
		h.lost = true
	}
	var ge *guestfs.GuestfsError
	if errors.As(err, &ge) {
		return &wire.Error{Errno: int(ge.Errno), Message: ge.Op + ": " + ge.Errmsg}
	}
	return &wire.Error{Message: err.Error()}
}

// start boots the appliance with the disks of r.
func (h *helper) start(r wire.Request) error {
	if r.Disks <= 0 || r.Disks > wire.MaxDisks {
		return fmt.Errorf("%d disks, of at most %d", r.Disks, wire.MaxDisks)
	}
	steps := []func() error{
		func() error { return h.g.Set_autosync(false) },
		func() error { return h.g.Set_network(false) },
		func() error { return h.g.Set_identifier("vmfr") },
	}
	if r.Memory > 0 {
		steps = append(steps, func() error { return h.g.Set_memsize(r.Memory) })
	}
	if !r.KVM {
		steps = append(steps, func() error { return h.g.Set_backend_settings([]string{"force_tcg"}) })
	}
	for i := range r.Disks {
		steps = append(steps, func() error {
			return h.g.Add_drive("", &guestfs.OptargsAdd_drive{
				Readonly_is_set: true, Readonly: true,
				Format_is_set: true, Format: "raw",
				Protocol_is_set: true, Protocol: "nbd",
				Server_is_set: true, Server: []string{"unix:" + filepath.Join(h.disks, sandbox.DiskSocket(i))},
			})
		})
	}
	for _, step := range append(steps, h.g.Launch) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts a file system read-only and describes it.
func (h *helper) mount(r wire.Request) (*wire.Mounted, error) {
	path := string(r.Path)
	if err := h.g.Mkmountpoint(path); err != nil {
		return nil, err
	}
	m := &wire.Mounted{}
	err := h.g.Mount_options(r.Options, r.Device, path)
	if err != nil && btrfsOption(r.Options) {
		if h.g.Mount_options(r.Options+",degraded", r.Device, path) == nil {
			m.Degraded, err = true, nil
		}
	}
	if err != nil {
		_ = h.g.Rmmountpoint(path)
		return nil, err
	}
	st, err := h.g.Lstatns(path)
	if err != nil {
		return nil, err
	}
	m.Root = *attr(st)
	v, err := h.g.Statvfs(path)
	if err != nil {
		return nil, err
	}
	m.BlockSize, m.Blocks, m.FreeBlocks, m.Files, m.FreeFiles = v.Frsize, v.Blocks, v.Bfree, v.Files, v.Ffree
	return m, nil
}

// read reads a piece of a file.
func (h *helper) read(r wire.Request) ([]byte, error) {
	if r.Count <= 0 || r.Count > wire.MaxPayload {
		return nil, fmt.Errorf("a piece of %d bytes", r.Count)
	}
	return h.g.Pread(string(r.Path), r.Count, r.Offset)
}

// attr translates a stat.
func attr(s *guestfs.StatNS) *wire.Attr {
	return &wire.Attr{
		Dev: s.St_dev, Ino: s.St_ino, Mode: s.St_mode, Nlink: s.St_nlink, UID: s.St_uid, GID: s.St_gid, Rdev: s.St_rdev,
		Size: s.St_size, BlockSize: s.St_blksize, Blocks: s.St_blocks,
		Atime: [2]int64{s.St_atime_sec, s.St_atime_nsec}, Mtime: [2]int64{s.St_mtime_sec, s.St_mtime_nsec},
		Ctime: [2]int64{s.St_ctime_sec, s.St_ctime_nsec},
	}
}

// sortedKeys returns m's keys in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
