package ntfs

import (
	"encoding/binary"
	"fmt"
	iofs "io/fs"
	"sort"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// The extended attributes beside user.ads.<stream> have the names and values that ntfs-3g gives
// them: security descriptor, file attributes (4 bytes, little-endian), reparse point, object
// id, attributes in the sense of OS/2 and the DOS name.
const (
	xattrACL     = "system.ntfs_acl"
	xattrAttrib  = "system.ntfs_attrib"
	xattrReparse = "system.ntfs_reparse_data"
	xattrObject  = "system.ntfs_object_id"
	xattrEA      = "system.ntfs_ea"
	xattrDOSName = "system.ntfs_dos_name"
	xattrStream  = "user.ads."
)

const (
	// maxXattrName and maxXattrValue are Linux's limits, in bytes. A stream that passes them
	// is a stream only.
	maxXattrName  = 255
	maxXattrValue = 64 << 10
	// maxXattrStreams bounds the streams of one file that are attributes, in bytes together: of
	// a file with thousands the others are streams only.
	maxXattrStreams = 1 << 20
	// maxStreams bounds the streams of one object: an attribute list has room for no more.
	maxStreams = maxList / minListEntry
)

// Xattrs returns what Linux has no other place for, and the small alternate data streams.
func (f *FS) Xattrs(ino fsys.Ino) (map[string][]byte, error) {
	n, err := f.node(ino)
	if err != nil {
		return nil, err
	}
	std, err := n.standard()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	put := func(name string, v []byte) {
		if v != nil && len(v) <= maxXattrValue {
			out[name] = append(make([]byte, 0, len(v)), v...) // not a part of a cached chunk
		}
	}
	acl, err := n.acl(std)
	if err != nil {
		return nil, err
	}
	put(xattrACL, acl)
	put(xattrAttrib, binary.LittleEndian.AppendUint32(nil, n.attributes(std)))
	if std.flags&flagReparse != 0 {
		v, err := n.value(typeReparse, maxReparse)
		if err != nil {
			return nil, err
		}
		put(xattrReparse, v)
	}
	object, err := n.value(typeObjectID, 64)
	if err != nil {
		return nil, err
	}
	put(xattrObject, object)
	ea, err := n.value(typeEA, maxEA)
	if err != nil {
		return nil, err
	}
	put(xattrEA, ea)
	if err := n.each(typeFileName, func(a *attr) bool {
		if k, err := parseFileName(a.value); err == nil && k.namespace == nameDOS {
			put(xattrDOSName, []byte(decodeName(k.name)))
		}
		return true
	}); err != nil {
		return nil, err
	}
	return out, n.streamXattrs(out)
}

// attributes are the file attributes as ntfs-3g shows them.
func (n *object) attributes(std standard) uint32 {
	v := std.flags &^ flagDirectory
	if n.isIndex() {
		v |= flagDirectory
	}
	if v == 0 {
		v = flagNormal
	}
	return v
}

// streamXattrs adds the small streams.
func (n *object) streamXattrs(out map[string][]byte) error {
	streams, err := n.streams()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, s := range streams {
		name := xattrStream + decodeName(s.name)
		if len(name) > maxXattrName || s.size > maxXattrValue || s.attr.flags&attrEncrypted != 0 {
			continue
		}
		if total += s.size; total > maxXattrStreams {
			return nil
		}
		r, err := n.open(s.attr)
		if err != nil {
			return fmt.Errorf("stream %q: %w", decodeName(s.name), err)
		}
		b := make([]byte, r.Size())
		if err := extent.ReadAllAt(r, b, 0); err != nil {
			return fmt.Errorf("stream %q: %w", decodeName(s.name), err)
		}
		out[name] = b
	}
	return nil
}

// namedStream is one alternate data stream.
type namedStream struct {
	name []byte // UTF-16
	size int64
	attr *attr // its first piece
}

// streams returns the alternate data streams whose names can be shown; of two with one name the
// first.
func (n *object) streams() ([]namedStream, error) {
	var out []namedStream
	seen := map[string]bool{}
	err := n.each(typeData, func(a *attr) bool {
		if len(a.name) == 0 || seen[string(a.name)] || !validName(decodeName(a.name)) {
			return true
		}
		seen[string(a.name)] = true
		c := *a
		out = append(out, namedStream{a.name, int64(a.size), &c})
		return len(out) < maxStreams
	})
	return out, err
}

// Streams lists the alternate data streams of a file or directory, sorted by name.
func (f *FS) Streams(ino fsys.Ino) ([]fsys.Stream, error) {
	n, err := f.node(ino)
	if err != nil {
		return nil, err
	}
	list, err := n.streams()
	if err != nil {
		return nil, err
	}
	out := make([]fsys.Stream, len(list))
	for i, s := range list {
		out[i] = fsys.Stream{Name: decodeName(s.name), Size: s.size}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// OpenStream returns a stream's bytes. Errors as Open's, and fs.ErrNotExist for a stream that is
// not there.
func (f *FS) OpenStream(ino fsys.Ino, name string) (extent.Reader, error) {
	n, err := f.node(ino)
	if err != nil {
		return nil, err
	}
	u, ok := encodeName(name)
	if ok && !strings.ContainsAny(name, "/\x00") {
		raw := make([]byte, 0, 2*len(u))
		for _, c := range u {
			raw = binary.LittleEndian.AppendUint16(raw, c)
		}
		a, err := n.find(typeData, raw)
		if err != nil {
			return nil, err
		}
		if a != nil {
			return n.open(a)
		}
	}
	return nil, fmt.Errorf("ntfs: stream %q of inode %d: %w", name, ino, iofs.ErrNotExist)
}
