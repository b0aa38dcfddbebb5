package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/latency"
)

// build opens the chain from the top down into m.layers. Every file opened here is in
// m.owned, also when an error is returned.
func (m *Image) build(top Source, detected bool, o Options) error {
	for i, b := range o.Backing {
		if b.File == nil || b.Format == "" {
			return fmt.Errorf("%w: backing file number %d of %s is given without a file or without its format; "+
				"pass format=raw or format=qcow2", ErrUnsupported, i+1, top.File.Name())
		}
	}
	m.detected, m.tables = detected, newTableCache()
	given := o.Backing
	for src := top; ; {
		l, err := m.openLayer(src, o.Reads)
		if err != nil {
			return err
		}
		m.layers = append(m.layers, l)
		q, ok := l.(*qcow2)
		if !ok || q.h.backing == "" {
			if len(given) > 0 {
				return fmt.Errorf("%w: %s has no backing file, but %s is given as one", ErrUnsupported, src.File.Name(), given[0].File.Name())
			}
			break
		}
		if src, given, err = m.below(q, given, o.Dir); err != nil {
			return err
		}
	}
	m.size = m.layers[0].size()
	if m.size == 0 {
		return fmt.Errorf("%w: the disk in %s has a virtual size of 0 bytes", ErrUnsupported, top.File.Name())
	}
	var err error
	m.packs, err = newPacks(m, o.CacheBytes)
	return err
}

// below finds the backing file of q: the next of those given, or the one that its header
// names. It returns what of given is left.
func (m *Image) below(q *qcow2, given []Source, dir Folder) (Source, []Source, error) {
	name := q.h.backing
	refuse := func(why string) (Source, []Source, error) {
		return Source{}, nil, fmt.Errorf("%w: backing file %q of %s: %s", ErrUnsupported, name, q.f.Name(), why)
	}
	if m.detected {
		return refuse("the image was only detected as qcow2, and a guest can write a qcow2 header onto its raw disk; " +
			"pass format=qcow2 if it is one")
	}
	if len(m.layers) == MaxChain {
		return refuse(fmt.Sprintf("the chain has more than %d files; commit some of them with qemu-img commit", MaxChain))
	}
	if len(given) > 0 {
		return given[0], given[1:], nil
	}
	if why := unfollowed(name, dir); why != "" {
		return refuse(why)
	}
	format := Format(q.h.backingFormat)
	switch format {
	case FormatRaw, FormatQCOW2:
	case "":
		return refuse("the image does not tell its format, which is never guessed; hand it over explicitly with its format, " +
			"or record it with qemu-img rebase -u -F")
	default:
		return refuse(fmt.Sprintf("its format is %q, and only raw and qcow2 are read", format))
	}
	// O_NONBLOCK: a pipe of that name must not hang the open; openHost then refuses it. A
	// symbolic link that leaves the folder is refused by os.Root.
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err // its path is in the text already
		}
		return Source{}, nil, fmt.Errorf("backing file %q of %s: %w; put it beside the top image or hand it over explicitly", name, q.f.Name(), err)
	}
	m.owned = append(m.owned, f)
	return Source{f, format}, nil, nil
}

// unfollowed says why a backing file name of a header is not looked up in dir, or nothing. A
// name with a directory, or one that QEMU would take for a protocol ("json:", "nbd:"), could
// lead anywhere.
func unfollowed(name string, dir Folder) string {
	switch {
	case strings.ContainsRune(name, '/'), name == ".", name == "..":
		return "a path is not followed; hand the file over explicitly, or put it beside the top image and " +
			"record its bare name with qemu-img rebase -u"
	case strings.ContainsRune(name, ':'):
		return "a protocol or option string is not followed; hand the file over explicitly"
	case strings.ContainsRune(name, 0):
		return "it is not a file name"
	case dir == nil:
		return "no folder is known to look it up in; hand it over explicitly"
	}
	return ""
}

// openLayer opens one file of the chain, which must not be in it already.
func (m *Image) openLayer(src Source, reads *latency.Pending) (layer, error) {
	f, err := openHost(src.File, reads)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	for _, l := range m.layers {
		if up, err := l.host().Stat(); err == nil && os.SameFile(st, up) {
			return nil, fmt.Errorf("%w: %s is its own backing file, directly or through others", ErrCorrupt, f.Name())
		}
	}
	switch src.Format {
	case FormatRaw:
		return openRaw(f), nil
	case FormatQCOW2:
		return openQCOW2(f, len(m.layers), m.tables)
	}
	return nil, fmt.Errorf("%w: format %q of %s is unknown; formats are raw and qcow2", ErrUnsupported, src.Format, f.Name())
}
