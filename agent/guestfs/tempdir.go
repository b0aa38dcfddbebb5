package guestfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix = "vmfr-appliance-"
	lockName  = "owner.lock"
	// youngDir is how old a directory without a lock must be to count as left behind: between
	// making a directory and locking it there is a moment.
	youngDir = time.Minute
)

// ownDir is a directory whose owner holds a lock as long as it lives. The lock ends with the
// process however that ends, so whoever can take it knows that the directory is nobody's.
type ownDir struct {
	path string
	lock *os.File
}

// newOwnDir makes a directory below parent, and removes those that dead processes left there.
func newOwnDir(parent string) (*ownDir, error) {
	removeStale(parent)
	for range 10 {
		path, err := os.MkdirTemp(parent, dirPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			_ = os.RemoveAll(path)
			return nil, err
		}
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(lock) {
			return &ownDir{path, lock}, nil
		}
		_ = lock.Close() // somebody who removes stale directories was faster
	}
	return nil, fmt.Errorf("a directory of our own in %s could not be locked", parent)
}

// sameFile tells whether an open file is still what its name leads to.
func sameFile(f *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(f.Name())
	return err == nil && os.SameFile(a, b)
}

// remove deletes the directory and gives up the lock.
func (d *ownDir) remove() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}

// removeStale deletes the directories below parent whose owners are dead. What cannot be
// deleted, since it is another user's, stays.
func removeStale(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			continue
		}
		fd, err := unix.Open(filepath.Join(dir, lockName), unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist) && time.Since(st.ModTime()) > youngDir:
			_ = os.RemoveAll(dir)
		case err == nil:
			if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
				_ = os.RemoveAll(dir)
			}
			_ = unix.Close(fd)
		}
	}
}
