package tree

import (
	"context"
	"fmt"
	iofs "io/fs"
	"strings"

	"vmfr/agent/fsys"
)

// Streams lists the named streams of a file or directory, sorted by name; none where the file
// system has no such thing.
func (t *Tree) Streams(n Node) (list []fsys.Stream, err error) {
	tab := t.cur.Load()
	defer t.guard("streams", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return nil, err
	}
	s, ok := m.fs.(fsys.Streamer)
	if !ok {
		return nil, nil
	}
	return s.Streams(m.ino(n.ino))
}

// OpenStream returns the bytes of a named stream, as Open does those of a file.
func (t *Tree) OpenStream(n Node, name string) (f *File, err error) {
	tab := t.cur.Load()
	defer t.guard("open stream", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return nil, err
	}
	s, ok := m.fs.(fsys.Streamer)
	if !ok {
		return nil, fmt.Errorf("stream %q: %w", name, iofs.ErrNotExist)
	}
	r, err := s.OpenStream(m.ino(n.ino), name)
	if err != nil {
		return nil, err
	}
	t.opens.Add(1)
	return &File{t: t, n: n, r: r}, nil
}

// ResolveStream splits "<file>:<stream>", as Windows writes it, for a path that Resolve did not
// find: the node is the file's, following links, the name one of its Streams. A file whose own
// name has a colon is Resolve's. Errors are those of ResolveContext; not found where the last element
// has no colon, the file no such stream, or its file system no streams.
func (t *Tree) ResolveStream(ctx context.Context, path string) (Node, string, error) {
	last := path[strings.LastIndexByte(path, '/')+1:]
	none := fmt.Errorf("%q: %w", path, iofs.ErrNotExist)
	// A stream's name has no colon on NTFS; a file's has none either, but on other systems may.
	i := strings.LastIndexByte(last, ':')
	if i <= 0 || i == len(last)-1 {
		return Node{}, "", none
	}
	n, err := t.ResolveContext(ctx, path[:len(path)-len(last)+i], true)
	if err != nil {
		return Node{}, "", err
	}
	streams, err := t.Streams(n)
	if err != nil {
		return Node{}, "", fmt.Errorf("%q: %w", path, err)
	}
	fold := ""
	for _, s := range streams {
		if s.Name == last[i+1:] {
			return n, s.Name, nil
		}
		if fold == "" && strings.EqualFold(s.Name, last[i+1:]) {
			fold = s.Name // Windows does not tell the case of names apart
		}
	}
	if fold != "" {
		return n, fold, nil
	}
	return Node{}, "", none
}
