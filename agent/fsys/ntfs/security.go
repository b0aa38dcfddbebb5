package ntfs

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Since version 3.0 of the format a file has the number of its security descriptor only, and
// $Secure has all descriptors in its stream $SDS, with an index by number, $SII:
//
//	$SII entry: 0x00 offset of the value (2), its length (2)   key: number (4)
//	value, and header of the descriptor in $SDS: hash (4), number (4), offset in $SDS (8), size (4)
const (
	secureRecord = 9
	sdsHeader    = 20
	// maxACL bounds a descriptor in bytes: two lists of 64 KiB and two owners.
	maxACL = 256 << 10
	// maxACLCache bounds the descriptors that are kept: a volume has some hundreds in use.
	maxACLCache = 512 << 10
)

var nameSDS = []byte("$\x00S\x00D\x00S\x00")

// securityIndex finds descriptors by their numbers.
type securityIndex struct {
	index *index
	sds   extent.Reader
}

func (f *FS) securityIndex() (*securityIndex, error) {
	if s := f.security.Load(); s != nil {
		return s, nil
	}
	n, err := f.object(secureRecord)
	if err != nil {
		return nil, fmt.Errorf("$Secure: %w", err)
	}
	x, err := n.openIndex(nameSII)
	if err != nil {
		return nil, fmt.Errorf("$Secure: %w", err)
	}
	a, err := n.find(typeData, nameSDS)
	if err == nil && a == nil {
		err = fsys.Corrupt("ntfs", "$Secure", secureRecord, -1, "it has no descriptors")
	}
	if err != nil {
		return nil, err
	}
	s := &securityIndex{index: x}
	if s.sds, err = n.open(a); err != nil {
		return nil, err
	}
	f.security.Store(s) // two at once do the same work
	return s, nil
}

// descriptor returns the security descriptor of that number, shared and read-only.
func (f *FS) descriptor(id uint32) ([]byte, error) {
	return f.acls.Get(id, func() ([]byte, error) {
		s, err := f.securityIndex()
		if err != nil {
			return nil, err
		}
		return s.read(id)
	})
}

func (s *securityIndex) read(id uint32) ([]byte, error) {
	le := binary.LittleEndian
	bad := func(reason string, args ...any) ([]byte, error) {
		return nil, fsys.Corrupt("ntfs", "$Secure", secureRecord, -1, "descriptor %d: "+reason, append([]any{id}, args...)...)
	}
	var value []byte
	err := s.index.search(func(key []byte) (int, error) {
		if len(key) < 4 {
			return 0, fmt.Errorf("a key of %d bytes", len(key))
		}
		switch k := le.Uint32(key); {
		case id < k:
			return -1, nil
		case id > k:
			return 1, nil
		}
		return 0, nil
	}, func(e entry) bool {
		at, n := int(le.Uint16(e.b)), int(le.Uint16(e.b[2:]))
		if n >= sdsHeader && at+n <= len(e.b) {
			value = e.b[at : at+n]
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if value == nil {
		return bad("it is not in the index")
	}
	off, size := le.Uint64(value[8:]), le.Uint32(value[16:])
	if size <= sdsHeader || size > maxACL+sdsHeader || off > uint64(s.sds.Size()) {
		return bad("%d bytes at %d", size, off)
	}
	b := make([]byte, size)
	if err := extent.ReadAllAt(s.sds, b, int64(off)); err != nil {
		return nil, fmt.Errorf("$Secure: descriptor %d: %w", id, err)
	}
	if string(b[:sdsHeader]) != string(value[:sdsHeader]) {
		return bad("at byte %d is another", off)
	}
	return b[sdsHeader:], nil
}

// acl returns an object's security descriptor, self-relative as in [MS-DTYP] 2.4.6; nil where it
// has none.
func (n *object) acl(std standard) ([]byte, error) {
	b, err := n.value(typeSecurity, maxACL)
	if err != nil || b != nil || std.securityID == 0 {
		return b, err
	}
	return n.fs.descriptor(std.securityID)
}
