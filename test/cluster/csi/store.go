package csi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// record is what is known of a volume or a snapshot beside its bytes.
type record struct {
	ID      string
	Name    string    // that the caller chose; the same name is the same volume
	Size    int64     // bytes
	Source  origin    // what it is a copy of
	Created time.Time // the instant of a snapshot
}

// origin names what bytes were copied from; it may be gone.
type origin struct {
	Snapshot string `json:",omitempty"`
	Volume   string `json:",omitempty"`
}

// shelf is a directory of volumes, or of snapshots: <id>.img holds the bytes, <id>.json the record.
// What has no record does not exist.
type shelf string

// safeID is what may be part of a path.
var safeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// idOf is the ID for a name: the name itself, if a path may hold it.
func idOf(name string) string {
	if safeID.MatchString(name) {
		return name
	}
	return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(name)))
}

func (s shelf) image(id string) string { return filepath.Join(string(s), id+".img") }
func (s shelf) meta(id string) string  { return filepath.Join(string(s), id+".json") }

// get returns a record; fs.ErrNotExist: there is none, whatever the ID looks like.
func (s shelf) get(id string) (record, error) {
	if !safeID.MatchString(id) {
		return record{}, fs.ErrNotExist
	}
	b, err := os.ReadFile(s.meta(id))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", s.meta(id), err)
	}
	return r, nil
}

// put makes an image, which fill fills, and then its record. What a failed or killed put has left
// the next one overwrites.
func (s shelf) put(r record, fill func(image *os.File) error) error {
	part := s.image(r.ID) + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	metaPart := s.meta(r.ID) + ".part"
	return errors.Join(
		os.Rename(part, s.image(r.ID)),
		os.WriteFile(metaPart, b, 0o600),
		os.Rename(metaPart, s.meta(r.ID)))
}

// remove removes an image and then its record, so that a removal that was interrupted can be
// repeated.
func (s shelf) remove(id string) error {
	for _, path := range []string{s.image(id), s.meta(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// list returns all records, sorted by ID.
func (s shelf) list() ([]record, error) {
	entries, err := os.ReadDir(string(s))
	if err != nil {
		return nil, err
	}
	var all []record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		r, err := s.get(id)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}
