package worker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"vmfr/agent/fsys"
)

// Probe reads the tree as clients do, directly and through the mount of rsync's jail, but nothing
// that a guest's storage is needed for: storage that does not answer is no reason to start a
// worker again. It may hang where the tree or the mount does. Before the session serves, it finds
// nothing wrong.
func (t *Totals) Probe(ctx context.Context) error {
	s := t.s.Load()
	if s == nil {
		return nil
	}
	tree := s.disks.Tree
	if _, err := tree.ReadDir(tree.Root(), 0, make([]fsys.Dirent, 8)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the tree's root: %w", err)
	}
	n, err := tree.Resolve("/README.txt", false)
	if err != nil {
		return fmt.Errorf("the tree: %w", err)
	}
	f, err := tree.Open(n)
	if err == nil {
		_, err = f.ReadAt(make([]byte, 1), 0)
	}
	if err != nil {
		return fmt.Errorf("the tree: %w", err)
	}
	if s.jailed == nil {
		return nil
	}
	select {
	case <-s.cfg.SSH.Jail.Done():
		return errors.New("rsync's jail has ended")
	default:
		return s.cfg.SSH.Jail.Look(ctx)
	}
}
