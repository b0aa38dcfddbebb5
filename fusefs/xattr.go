package fusefs

import (
	"sort"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
)

// Linux's limits of an extended attribute's value and of the list of names, in bytes
// (XATTR_SIZE_MAX, XATTR_LIST_MAX). What is longer cannot be handed over: E2BIG.
const (
	xattrSizeMax = 64 << 10
	xattrListMax = 64 << 10
)

func (v *view) xattrs(op string, id uint64) (map[string][]byte, fuse.Status) {
	v.o.Counters.Count(tree.OpXattr)
	n, st := v.node(id)
	if !st.Ok() {
		return nil, st
	}
	xs, err := v.t.Xattrs(n)
	if err != nil {
		return nil, v.fail(op, id, err)
	}
	return xs, fuse.OK
}

// GetXAttr gives one value. POSIX ACLs are among them, in the encoding that acl(5) tools read.
func (v *view) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	xs, st := v.xattrs("getxattr", in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	val, ok := xs[name]
	switch {
	case !ok:
		return 0, fuse.ENODATA
	case len(val) > xattrSizeMax:
		return 0, fuse.Status(unix.E2BIG)
	case len(val) > len(dest):
		return uint32(len(val)), fuse.ERANGE
	}
	return uint32(copy(dest, val)), fuse.OK
}

// trusted is the prefix of names whose values the kernel gives to CAP_SYS_ADMIN only (xattr(7)).
// Who is told of such a name and refused its value takes that for an error, as rsync does.
const trusted = "trusted."

// ListXAttr gives the names, sorted, each ended by a NUL; as a kernel's file systems do, without
// trusted ones to those who may not read them.
func (v *view) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	xs, st := v.xattrs("listxattr", in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	names, size := make([]string, 0, len(xs)), 0
	for name := range xs {
		if in.Uid != 0 && strings.HasPrefix(name, trusted) {
			continue
		}
		names = append(names, name)
		size += len(name) + 1
	}
	switch {
	case size > xattrListMax:
		return 0, fuse.Status(unix.E2BIG)
	case size > len(dest):
		return uint32(size), fuse.ERANGE
	}
	sort.Strings(names)
	at := 0
	for _, name := range names {
		at += copy(dest[at:], name)
		dest[at] = 0
		at++
	}
	return uint32(size), fuse.OK
}
