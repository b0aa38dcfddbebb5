package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/sddl"
)

// entry describes one object. A name or target that is not UTF-8 comes a second time as its
// bytes, in base64 as encoding/json has it.
type entry struct {
	Name        string `json:"name"`
	NameBytes   []byte `json:"nameBytes,omitempty"`
	Type        string `json:"type"`
	Mode        string `json:"mode,omitempty"` // permission bits, octal: "0644"
	UID         uint32 `json:"uid"`
	GID         uint32 `json:"gid"`
	Size        int64  `json:"size"`
	Allocated   int64  `json:"allocated"` // bytes on the guest's disk
	Mtime       string `json:"mtime,omitempty"`
	Nlink       uint32 `json:"nlink"`
	Inode       uint64 `json:"inode"`
	Target      string `json:"target,omitempty"`
	TargetBytes []byte `json:"targetBytes,omitempty"`
	Device      string `json:"device,omitempty"` // "major:minor"

	// For a single object, and on /api/v1/entries; attributes there only on request.
	Atime  string            `json:"atime,omitempty"`
	Ctime  string            `json:"ctime,omitempty"`
	Btime  string            `json:"btime,omitempty"`
	ETag   string            `json:"etag,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	// Security is what the attribute system.ntfs_acl says, in words.
	Security *security `json:"security,omitempty"`
	// Streams are the named streams of a file on NTFS, for ?stream=.
	Streams []streamEntry `json:"streams,omitempty"`

	// Error says why the rest is missing; the other entries of a listing are not affected.
	Error *entryError `json:"error,omitempty"`
}

type entryError struct {
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

func describeError(err error) *entryError {
	k := tree.KindOf(err)
	return &entryError{k.String(), err.Error(), k.Advice()}
}

var typeNames = map[uint32]string{
	fsys.ModeRegular: "file", fsys.ModeDir: "directory", fsys.ModeSymlink: "symlink", fsys.ModeBlock: "block",
	fsys.ModeChar: "char", fsys.ModeFIFO: "fifo", fsys.ModeSocket: "socket",
}

func typeName(mode uint32) string {
	if s, ok := typeNames[mode&fsys.ModeFmt]; ok {
		return s
	}
	return "unknown"
}

// entry describes an entry of the page.
func (p *page) entry(d fsys.Dirent) entry {
	e, n, a, ok := p.h.describe(p.dir, d)
	if ok && p.full {
		e.times(a)
	}
	if ok && p.xattrs {
		p.h.attributes(&e, n)
	}
	return e
}

func (h *handler) direntry(dir tree.Node, d fsys.Dirent) entry {
	e, _, _, _ := h.describe(dir, d)
	return e
}

// describe tells of the object that d names in dir what can be read; false: not even its attributes.
func (h *handler) describe(dir tree.Node, d fsys.Dirent) (entry, tree.Node, fsys.Attr, bool) {
	// By number: by name would cost O(n) each in a folder without an index.
	n, ok := h.tree.ByID(uint64(d.Ino))
	var a fsys.Attr
	var err error
	if !ok {
		n, err = h.tree.Lookup(dir, d.Name)
	}
	if err == nil {
		a, err = h.tree.Attr(n)
	}
	if err != nil {
		e := entry{Type: typeName(d.Type), Inode: uint64(d.Ino), Error: describeError(err)}
		e.Name, e.NameBytes = text(d.Name)
		return e, n, a, false
	}
	return h.entry(d.Name, n, a), n, a, true
}

func (h *handler) entry(name string, n tree.Node, a fsys.Attr) entry {
	e := entry{
		Type: typeName(a.Mode), Mode: fmt.Sprintf("%04o", a.Mode&^fsys.ModeFmt), UID: a.UID, GID: a.GID, Size: a.Size,
		Allocated: a.Blocks * 512, Mtime: timestamp(a.Mtime), Nlink: a.Nlink, Inode: uint64(a.Ino),
	}
	e.Name, e.NameBytes = text(name)
	switch a.Mode & fsys.ModeFmt {
	case fsys.ModeSymlink:
		target, err := h.tree.Readlink(n)
		if err != nil {
			e.Error = describeError(err)
			break
		}
		e.Target, e.TargetBytes = text(target)
	case fsys.ModeBlock, fsys.ModeChar:
		e.Device = fmt.Sprintf("%d:%d", a.Major, a.Minor)
	}
	return e
}

// security is a Windows security descriptor. Names are those of well-known SIDs.
type security struct {
	Owner     string `json:"owner,omitempty"`
	OwnerName string `json:"ownerName,omitempty"`
	Group     string `json:"group,omitempty"`
	GroupName string `json:"groupName,omitempty"`
	SDDL      string `json:"sddl"`
}

// securityOf is nil where there is no descriptor, or none that can be read: the attribute has its bytes.
func securityOf(xattrs map[string][]byte) *security {
	b, ok := xattrs["system.ntfs_acl"]
	if !ok {
		return nil
	}
	d, err := sddl.Parse(b)
	if err != nil {
		return nil
	}
	return &security{d.Owner, sddl.Name(d.Owner), d.Group, sddl.Name(d.Group), d.SDDL}
}

// streamEntry is a named stream.
type streamEntry struct {
	Name      string `json:"name"`
	NameBytes []byte `json:"nameBytes,omitempty"`
	Size      int64  `json:"size"`
}

func (e *entry) times(a fsys.Attr) {
	e.Atime, e.Ctime, e.Btime = timestamp(a.Atime), timestamp(a.Ctime), timestamp(a.Btime)
}

// attributes adds extended attributes and streams.
func (h *handler) attributes(e *entry, n tree.Node) {
	h.cfg.Counters.Count(tree.OpXattr)
	var err error
	if e.Xattrs, err = h.tree.Xattrs(n); err != nil {
		e.Error = describeError(err)
	}
	e.Security = securityOf(e.Xattrs)
	list, err := h.tree.Streams(n)
	if err != nil && !errors.Is(err, fsys.ErrUnsupported) {
		e.Error = describeError(err)
	}
	for _, s := range list {
		se := streamEntry{Size: s.Size}
		se.Name, se.NameBytes = text(s.Name)
		e.Streams = append(e.Streams, se)
	}
}

// stat answers with the attributes of one object.
func (h *handler) stat(w *response, r *http.Request, names []string, n tree.Node, a fsys.Attr) {
	name := ""
	if len(names) > 0 {
		name = names[len(names)-1]
	}
	e := h.entry(name, n, a)
	e.times(a)
	h.attributes(&e, n)
	if a.IsRegular() {
		var err error
		if e.ETag, err = h.etag(n, a); err != nil {
			e.Error = describeError(err)
		}
	}
	h.json(w, r, e)
}

// json answers with one value.
func (h *handler) json(w *response, r *http.Request, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", noStore)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}

// text returns s for JSON, and its bytes too where JSON cannot say them.
func text(s string) (string, []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return s, []byte(s) // encoding/json writes U+FFFD for what is not UTF-8
}

// timestamp is t in UTC with all the digits that it has; empty where there is none.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
