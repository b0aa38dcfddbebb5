package sshd

import (
	"errors"
	"io"
	"path"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// serveSFTP runs the protocol on one channel until the client ends it.
func (s *server) serveSFTP(c *conn, ch gossh.Channel) {
	v := &view{s: s, c: c}
	rs := sftp.NewRequestServer(newWire(ch), sftp.Handlers{FileGet: v, FilePut: v, FileCmd: v, FileList: v}, sftp.WithRSMaxTxPacket(maxRead))
	if err := rs.Serve(); err != nil && !errors.Is(err, io.EOF) {
		s.cfg.Log.Debug("ssh: sftp ended", "remote", c.addr, "err", err)
	}
}

// view is the tree as pkg/sftp's RequestServer asks for it. Paths arrive absolute and cleaned.
type view struct {
	s *server
	c *conn
}

var (
	_ sftp.FileReader           = (*view)(nil)
	_ sftp.FileWriter           = (*view)(nil)
	_ sftp.PosixRenameFileCmder = (*view)(nil)
	_ sftp.StatVFSFileCmder     = (*view)(nil)
	_ sftp.LstatFileLister      = (*view)(nil)
	_ sftp.ReadlinkFileLister   = (*view)(nil)
)

// statusError is an error with its SSH_FX_* code and a message for the client.
type statusError struct {
	code error // of pkg/sftp
	msg  string
}

func (e *statusError) Error() string { return e.msg }
func (e *statusError) Unwrap() error { return e.code }

// codes are pkg/sftp's errors by SSH_FX_* status.
var codes = map[uint32]error{2: sftp.ErrSSHFxNoSuchFile, 3: sftp.ErrSSHFxPermissionDenied, 8: sftp.ErrSSHFxOpUnsupported}

// status gives an error of the tree its code and the advice that belongs to it.
func status(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	k := tree.KindOf(err)
	code, ok := codes[k.SFTP()]
	if !ok {
		code = sftp.ErrSSHFxFailure
	}
	return &statusError{code, err.Error() + ". " + k.Advice()}
}

// refused is the answer to everything that would write.
func (v *view) refused(what string) error {
	v.s.cfg.Counters.Count(tree.OpRefused)
	return &statusError{sftp.ErrSSHFxPermissionDenied, what + ": backups are read-only; copy the file and change the copy"}
}

func (v *view) attr(p string, follow bool) (tree.Node, fsys.Attr, error) {
	v.s.cfg.Counters.Count(tree.OpLookup)
	n, err := v.s.tree.Resolve(p, follow)
	if err != nil {
		return n, fsys.Attr{}, err
	}
	v.s.cfg.Counters.Count(tree.OpStat)
	a, err := v.s.tree.Attr(n)
	return n, a, err
}

// Fileread opens a regular file.
func (v *view) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	n, _, err := v.attr(r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	v.s.cfg.Counters.Count(tree.OpOpen)
	f, err := v.s.tree.Open(n)
	if err != nil {
		return nil, status(err)
	}
	if err := v.hold(); err != nil {
		return nil, err
	}
	return &file{v: v, f: f}, nil
}

// hold and release count the open handles of a connection.
func (v *view) hold() error {
	if v.c.files.Add(1) > maxHandles {
		v.c.files.Add(-1)
		return &statusError{sftp.ErrSSHFxFailure, "too many open files: close some first"}
	}
	v.s.cfg.Counters.Files(1)
	return nil
}

func (v *view) release() {
	v.c.lastFile.Store(time.Now().UnixNano())
	v.c.files.Add(-1)
	v.s.cfg.Counters.Files(-1)
}

type file struct {
	v *view
	f *tree.File
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	f.v.s.cfg.Counters.Read(n)
	return n, status(err)
}

func (f *file) Close() error {
	f.v.release()
	return nil
}

func (v *view) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, v.refused("open for writing")
}
func (v *view) Filecmd(r *sftp.Request) error   { return v.refused(r.Method) }
func (v *view) PosixRename(*sftp.Request) error { return v.refused("Rename") }

// StatVFS answers statvfs@openssh.com.
func (v *view) StatVFS(r *sftp.Request) (*sftp.StatVFS, error) {
	n, a, err := v.attr(r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	info, _, err := v.s.tree.Info(n)
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
	n, a, err := v.attr(r.Filepath, true)
	if err != nil {
		return nil, status(err)
	}
	if r.Method != "List" {
		return one{info{path.Base(r.Filepath), a}}, nil
	}
	if !a.IsDir() {
		return nil, status(fsys.ErrNotDir)
	}
	if err := v.hold(); err != nil {
		return nil, err
	}
	return &dir{v: v, n: n, path: r.Filepath}, nil
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
	n, err := v.s.tree.Resolve(p, false)
	if err != nil {
		return "", status(err)
	}
	t, err := v.s.tree.Readlink(n)
	return t, status(err)
}
