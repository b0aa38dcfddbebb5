package xfs

import (
	"encoding/binary"
	"fmt"
)

// aclNames are the attributes of the trusted name space that hold POSIX ACLs, and what getxattr
// calls them.
var aclNames = map[string]string{
	"SGI_ACL_FILE":    "system.posix_acl_access",
	"SGI_ACL_DEFAULT": "system.posix_acl_default",
}

// On disk an ACL is a count (4) and entries of tag (4), id (4), permissions (2) and padding (2),
// big-endian. Towards programs it is a version (4) and entries of tag (2), permissions (2) and id
// (4), little-endian.
const (
	aclEntrySize    = 12
	aclXattrVersion = 2
	aclTagUser      = 0x02
	aclTagGroup     = 0x08
	aclNoID         = 0xFFFFFFFF
)

// convertACL makes the value of system.posix_acl_* from the one on disk.
func convertACL(disk []byte) ([]byte, error) {
	be, le := binary.BigEndian, binary.LittleEndian
	if len(disk) < 4 || uint64(be.Uint32(disk))*aclEntrySize > uint64(len(disk)-4) {
		return nil, fmt.Errorf("not an access control list: %d bytes", len(disk))
	}
	count := int(be.Uint32(disk))
	out := le.AppendUint32(make([]byte, 0, 4+8*count), aclXattrVersion)
	for e := disk[4:]; count > 0; e, count = e[aclEntrySize:], count-1 {
		tag, id := be.Uint32(e), be.Uint32(e[4:])
		switch tag {
		case aclTagUser, aclTagGroup:
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
			id = aclNoID
		default:
			return nil, fmt.Errorf("entry with tag %#x", tag)
		}
		out = le.AppendUint16(out, uint16(tag))
		out = le.AppendUint16(out, be.Uint16(e[8:]))
		out = le.AppendUint32(out, id)
	}
	return out, nil
}
