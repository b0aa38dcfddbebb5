package xfs

// query is a name that is looked for. ino is the result: that of the same bytes or, where the
// file system compares without regard to case, that of the first name that is equal so.
type query struct {
	name string
	ci   bool
	ino  uint64
}

// hash is the hash of the name in indexes (xfs_da_hashname).
func (q *query) hash() uint32 {
	h := uint32(0)
	for i := range len(q.name) {
		c := q.name[i]
		if q.ci {
			c = lower(c)
		}
		h = uint32(c) ^ (h<<7 | h>>25)
	}
	return h
}

// match takes an entry into account and tells whether the search is over.
func (q *query) match(d *dirent) bool {
	if len(d.name) != len(q.name) {
		return false
	}
	if string(d.name) == q.name {
		q.ino = d.ino
		return true
	}
	if q.ci && q.ino == 0 && equalFold(d.name, q.name) {
		q.ino = d.ino
	}
	return false
}

func equalFold(a []byte, b string) bool {
	for i, c := range a {
		if lower(c) != lower(b[i]) {
			return false
		}
	}
	return true
}

// lower maps the upper-case letters of ASCII and Latin-1, byte by byte, as mkfs -n version=ci
// defines it.
func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' || c >= 0xC0 && c <= 0xDE && c != 0xD7 {
		return c + 'a' - 'A'
	}
	return c
}
