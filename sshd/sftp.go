package sshd

import (
	"context"
	"errors"
	"io"
	"path"
	"time"

	"github.com/pkg/sftp"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// serveSFTP runs the protocol on one channel until the client ends it, and returns when nothing
// is read or written any more. Requests that wait for a boot of the tree end with ctx.
func (s *server) serveSFTP(ctx context.Context, c *conn, ch io.ReadWriteCloser) {
	v := &view{ctx: ctx, s: s, c: c}
	w := newWire(ch, v)
	defer w.reads.Wait()
	rs := sftp.NewRequestServer(w, sftp.Handlers{FileGet: v, FilePut: v, FileCmd: v, FileList: v}, sftp.WithRSMaxTxPacket(maxRead))
	if err := rs.Serve(); err != nil && !errors.Is(err, io.EOF) {
		s.cfg.Log.Debug("ssh: sftp ended", "remote", c.addr, "err", err)
	}
}

// view is the tree as pkg/sftp's RequestServer asks for it. Paths arrive absolute and cleaned.
type view struct {
	ctx  context.Context // of the session
	s    *server
	c    *conn
	open handles
	wire *wire
}

var (
	_ sftp.FileReader           = (*view)(nil)
	_ sftp.FileWriter           = (*view)(nil)
	_ sftp.PosixRenameFileCmder = (*view)(nil)
	_ sftp.StatVFSFileCmder     = (*view)(nil)
	_ sftp.LstatFileLister      = (*view)(nil)
	_ sftp.ReadlinkFileLister   = (*view)(nil)
)

// refused is the answer to everything that would write.
func (v *view) refused(what string) error {
	v.s.cfg.Counters.Count(tree.OpRefused)
	v.s.cfg.Audit.Refused(v.c.who, what, "backups are read-only")
	return &statusError{fxPermissionDenied, what + ": backups are read-only; copy the file and change the copy"}
}

func (v *view) attr(p string, follow bool) (object, fsys.Attr, error) {
	o, err := v.s.find(v.ctx, p, follow)
	if err != nil {
		return o, fsys.Attr{}, err
	}
	a, err := v.s.attr(o)
	return o, a, err
}

// Fileread opens a regular file or a stream of one.
func (v *view) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	o, err := v.s.find(v.ctx, r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	f, err := v.s.open(o)
	if err != nil {
		return nil, status(err)
	}
	opened := &file{v: v, f: f}
	if err := v.hold(opened); err != nil {
		return nil, err
	}
	opened.record = v.s.cfg.Audit.Open(v.c.who, r.Filepath, f.Size())
	return opened, nil
}

// hold and release count the open handles of a connection. What was held is opened: f, or a
// directory if that is nil.
func (v *view) hold(f *file) error {
	if v.c.files.Add(1) > maxHandles {
		v.c.files.Add(-1)
		return &statusError{fxFailure, "too many open files: close some first"}
	}
	v.s.cfg.Counters.Files(1)
	v.open.add(f)
	return nil
}

func (v *view) release() {
	v.c.lastFile.Store(time.Now().UnixNano())
	v.c.files.Add(-1)
	v.s.cfg.Counters.Files(-1)
}

func (v *view) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, v.refused("open for writing")
}
func (v *view) Filecmd(r *sftp.Request) error   { return v.refused(r.Method) }
func (v *view) PosixRename(*sftp.Request) error { return v.refused("Rename") }

// StatVFS answers statvfs@openssh.com.
func (v *view) StatVFS(r *sftp.Request) (*sftp.StatVFS, error) {
	o, a, err := v.attr(r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	info, _, err := v.s.tree.Info(o.Node)
	if err != nil {
		return nil, status(err)
	}
	bs := uint64(max(info.BlockSize, 512))
	return &sftp.StatVFS{
		Bsize: bs, Frsize: bs, Blocks: info.Total / bs, Bfree: info.Free / bs, Bavail: info.Free / bs,
		Files: info.Files, Ffree: info.FreeFiles, Favail: info.FreeFiles,
		Fsid: uint64(a.Ino) >> 48, Flag: 1 | 2, Namemax: 255, // ST_RDONLY, ST_NOSUID
	}, nil
}

// Filelist opens a directory, or describes the object that a path leads to.
func (v *view) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	o, a, err := v.attr(r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	if r.Method != "List" {
		return one{info{path.Base(r.Filepath), a}}, nil
	}
	if !a.IsDir() {
		return nil, status(fsys.ErrNotDir)
	}
	if err := v.hold(nil); err != nil {
		return nil, err
	}
	return &dir{v: v, n: o.Node, path: r.Filepath}, nil
}

// Lstat describes an object without following a link at the end of its path.
func (v *view) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	_, a, err := v.attr(r.Filepath, false)
	if err != nil {
		return nil, status(err)
	}
	return one{info{path.Base(r.Filepath), a}}, nil
}

// Readlink returns a link's target as it is recorded.
func (v *view) Readlink(p string) (string, error) {
	v.s.cfg.Counters.Count(tree.OpReadlink)
	n, err := v.s.tree.ResolveContext(v.ctx, p, false)
	if err != nil {
		return "", status(err)
	}
	t, err := v.s.tree.Readlink(n)
	return t, status(err)
}
