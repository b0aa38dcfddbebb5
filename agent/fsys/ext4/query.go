package ext4

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// An encrypted directory (fscrypt) is shown as the kernel shows it without the key: each name is
// the base64url of its hash (2*4 bytes) and up to noKeyBytes of its ciphertext; a longer one ends
// with the SHA-256 of the rest ("No-key names" in the kernel's Documentation/filesystems/fscrypt).
const noKeyBytes = 149

// noKeyName codes one encrypted name.
func noKeyName(hash, minor uint32, cipher []byte) string {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 8+noKeyBytes+sha256.Size), hash)
	b = binary.LittleEndian.AppendUint32(b, minor)
	if len(cipher) <= noKeyBytes {
		b = append(b, cipher...)
	} else {
		rest := sha256.Sum256(cipher[noKeyBytes:])
		b = append(append(b, cipher[:noKeyBytes]...), rest[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// namer tells the names to show for the entries of one directory.
type namer struct {
	s         *super
	encrypted bool
	hashes    bool  // the kernel hashes the names of this directory when it lists it
	version   uint8 // of that hash
}

func (f *FS) newNamer(n *inode) *namer {
	w := &namer{s: f.sb, encrypted: n.has(flagEncrypt)}
	if !w.encrypted || !f.sb.hasCompat(compatDirIndex) {
		return w
	}
	switch {
	case f.isHashed(n):
		// The hash in the root; where it cannot be read the listing shows why.
		w.version = f.sb.raw[0xFC]
		if x, err := (&indexWalk{f: f, c: f.content(n)}).push(0); err == nil {
			w.version = x.version
		}
		w.hashes = true
	case n.has(flagInline) || n.size == f.sb.blockSize:
		w.version, w.hashes = f.sb.raw[0xFC], true
	}
	return w
}

func (w *namer) name(d *dirent) string {
	if !w.encrypted {
		return string(d.name)
	}
	hash, minor := d.hash, d.minor
	if !d.stored && w.hashes {
		hash, minor, _ = dirHash(w.s.hashVersion(w.version), w.s.hashSeed, d.name)
	}
	return noKeyName(hash, minor, d.name)
}

// query is a name that is looked up in one directory.
type query struct {
	s      *super
	name   string
	namer  *namer // of an encrypted directory: name is a coded one
	fixed  uint32 // its hash, which a coded name carries
	folded []byte // of a case-folded directory: what the index hashes
	hashed bool   // hash can be computed
}

// newQuery prepares a lookup; ok is false where no entry can have that name.
func (f *FS) newQuery(n *inode, name string) (q *query, ok bool) {
	q = &query{s: f.sb, name: name, hashed: true}
	switch {
	case n.has(flagEncrypt):
		b, err := base64.RawURLEncoding.DecodeString(name)
		if err != nil || len(b) < 9 {
			return nil, false
		}
		q.namer, q.fixed = f.newNamer(n), binary.LittleEndian.Uint32(b)
	case n.has(flagCasefold) && f.sb.hasIncompat(incompatCasefold):
		// Names are hashed in folded form. For ASCII that is lower case; the rest would take
		// the very Unicode tables of the guest's kernel, so those names are searched for.
		q.folded = []byte(name)
		for i, c := range q.folded {
			if c >= 0x80 {
				q.hashed = false
			} else if 'A' <= c && c <= 'Z' {
				q.folded[i] = c + 'a' - 'A'
			}
		}
	}
	return q, true
}

// match tells whether an entry has the name, byte by byte, whatever the directory folds.
func (q *query) match(d *dirent) bool {
	if q.namer != nil {
		return q.namer.name(d) == q.name
	}
	return string(d.name) == q.name
}

// hash is where an index of the given version has the name; ok is false where that is unknown.
func (q *query) hash(version uint8) (h uint32, ok bool) {
	if q.namer != nil {
		return q.fixed, true
	}
	name := q.folded
	if name == nil {
		name = []byte(q.name)
	}
	if q.s.flags&(flagSignedHash|flagUnsignedHash) == 0 {
		// Not recorded: it was the signedness of char on the guest's processor, which matters
		// for bytes above 0x7F only.
		for _, c := range name {
			if c >= 0x80 {
				return 0, false
			}
		}
	}
	h, _, ok = dirHash(q.s.hashVersion(version), q.s.hashSeed, name)
	return h, ok
}
