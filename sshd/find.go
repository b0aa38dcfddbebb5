package sshd

import (
	"context"
	iofs "io/fs"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// object is what a path leads to: a node of the tree, or a named stream of one.
type object struct {
	tree.Node
	stream string // "": the node itself
}

// find resolves a path. What is not there by that name may be "<file>:<stream>", an alternate
// data stream as Windows writes it. Where the tree waits for a boot, find does so until ctx ends.
func (s *server) find(ctx context.Context, path string, follow bool) (object, error) {
	s.cfg.Counters.Count(tree.OpLookup)
	n, err := s.tree.ResolveContext(ctx, path, follow)
	if err == nil || tree.KindOf(err) != tree.KindNotFound {
		return object{Node: n}, err
	}
	n, stream, serr := s.tree.ResolveStream(ctx, path)
	switch {
	case serr == nil:
		return object{n, stream}, nil
	case tree.KindOf(serr) == tree.KindCorrupt || tree.KindOf(serr) == tree.KindImage || tree.KindOf(serr) == tree.KindIO:
		return object{}, serr // nobody knows whether there is such a stream
	}
	return object{}, err
}

// attr describes an object. A stream is a regular file with its file's owner, permissions and times.
func (s *server) attr(o object) (fsys.Attr, error) {
	s.cfg.Counters.Count(tree.OpStat)
	a, err := s.tree.Attr(o.Node)
	if err != nil || o.stream == "" {
		return a, err
	}
	list, err := s.tree.Streams(o.Node)
	if err != nil {
		return fsys.Attr{}, err
	}
	for _, x := range list {
		if x.Name == o.stream {
			a.Mode, a.Size, a.Nlink = fsys.ModeRegular|a.Mode&0o666, x.Size, 1
			return a, nil
		}
	}
	return fsys.Attr{}, iofs.ErrNotExist
}

// open opens a regular file or a stream.
func (s *server) open(o object) (*tree.File, error) {
	s.cfg.Counters.Count(tree.OpOpen)
	if o.stream != "" {
		return s.tree.OpenStream(o.Node, o.stream)
	}
	return s.tree.Open(o.Node)
}

// readDir is tree.ReadDir that waits for a boot until ctx ends.
func (s *server) readDir(ctx context.Context, n tree.Node, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	s.cfg.Counters.Count(tree.OpList)
	if err := s.tree.Await(ctx, n); err != nil {
		return 0, err
	}
	return s.tree.ReadDir(n, from, out)
}
