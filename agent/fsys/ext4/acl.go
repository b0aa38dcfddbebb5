package ext4

import (
	"encoding/binary"
	"fmt"
)

// Names of the POSIX ACLs as getxattr(2) knows them.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// On disk an ACL is version 1: entries of tag (2) and permissions (2), those for a named user or
// group with an id (4). Towards programs it is version 2, where every entry has an id.
const (
	aclDiskVersion  = 1
	aclXattrVersion = 2
	aclTagUser      = 0x02
	aclTagGroup     = 0x08
	aclNoID         = 0xFFFFFFFF
)

// convertACL makes the value of system.posix_acl_* from the one on disk.
func convertACL(disk []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(disk) < 4 || le.Uint32(disk) != aclDiskVersion {
		return nil, fmt.Errorf("not an access control list of version %d", aclDiskVersion)
	}
	out := le.AppendUint32(make([]byte, 0, 4+2*len(disk)), aclXattrVersion)
	for p := disk[4:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, fmt.Errorf("%d bytes left over", len(p))
		}
		tag := le.Uint16(p)
		out = append(out, p[:4]...)
		switch p = p[4:]; tag {
		case aclTagUser, aclTagGroup:
			if len(p) < 4 {
				return nil, fmt.Errorf("entry with tag %#x has no id", tag)
			}
			out = append(out, p[:4]...)
			p = p[4:]
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
			out = le.AppendUint32(out, aclNoID)
		default:
			return nil, fmt.Errorf("entry with tag %#x", tag)
		}
	}
	return out, nil
}
