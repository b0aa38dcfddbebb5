package ntfs

import (
	"math"
	"sort"

	"vmfr/agent/fsys"
)

// hole is the logical cluster of what is not allocated.
const hole = -1

// run is a part of a stream that lies together: up to the next run's first cluster.
type run struct {
	vcn uint64 // first virtual cluster
	lcn int64  // first logical cluster, hole: none
}

// runList is the decoded mapping of the virtual clusters [first, end).
type runList struct {
	first, end uint64
	runs       []run // sorted, without gaps
}

// at maps cluster vcn, which the list has: where it lies and how many follow it there.
func (l *runList) at(vcn uint64) (lcn int64, count uint64) {
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].vcn > vcn }) - 1
	r := l.runs[i]
	next := l.end
	if i+1 < len(l.runs) {
		next = l.runs[i+1].vcn
	}
	if lcn = r.lcn; lcn != hole {
		lcn += int64(vcn - r.vcn)
	}
	return lcn, next - vcn
}

// decodeRuns decodes the mapping pairs of one piece of an attribute. Each pair is a byte with the
// sizes of two numbers, the length in clusters (low half) and the signed distance from the last
// run's first cluster (high half; none for a hole); a zero byte ends the list. The lengths must
// add up to the clusters that the attribute names, and all runs must lie in the volume.
func (f *FS) decodeRuns(num uint64, a *attr) (*runList, error) {
	bad := func(reason string, args ...any) (*runList, error) {
		return nil, fsys.Corrupt("ntfs", "run list", fsys.Ino(num), -1, reason, args...)
	}
	l := &runList{first: a.first, end: a.last + 1}
	// Byte offsets in a stream must be offsets of Go's I/O.
	if l.end > math.MaxInt64/f.boot.cluster {
		return bad("it ends at cluster %d", l.end)
	}
	l.runs = make([]run, 0, len(a.pairs)/3)
	vcn, lcn := a.first, int64(0)
	for b := a.pairs; ; {
		if len(b) == 0 {
			return bad("it has no end")
		}
		if b[0] == 0 {
			break
		}
		lengthSize, distSize := int(b[0]&15), int(b[0]>>4)
		if lengthSize == 0 || lengthSize > 8 || distSize > 8 || 1+lengthSize+distSize > len(b) {
			return bad("a pair of %d and %d bytes", lengthSize, distSize)
		}
		length := signed(b[1 : 1+lengthSize])
		if length <= 0 || uint64(length) > l.end-vcn {
			return bad("%d clusters from %d on, of %d", length, vcn, l.end)
		}
		r := run{vcn, hole}
		if distSize > 0 {
			dist := signed(b[1+lengthSize : 1+lengthSize+distSize])
			// The volume has less than 2^55 clusters.
			if dist < -(1<<56) || dist > 1<<56 {
				return bad("a distance of %d clusters", dist)
			}
			lcn += dist
			if lcn < 0 || uint64(lcn) > f.boot.clusters || uint64(length) > f.boot.clusters-uint64(lcn) {
				return bad("%d clusters at %d of a volume of %d", length, lcn, f.boot.clusters)
			}
			r.lcn = lcn
		}
		l.runs = append(l.runs, r)
		vcn += uint64(length)
		b = b[1+lengthSize+distSize:]
	}
	if vcn != l.end {
		return bad("it maps %d clusters of %d", vcn-l.first, l.end-l.first)
	}
	return l, nil
}

// signed decodes 1 to 8 bytes, little-endian, with the sign of the last.
func signed(b []byte) int64 {
	v := int64(int8(b[len(b)-1]))
	for i := len(b) - 2; i >= 0; i-- {
		v = v<<8 | int64(b[i])
	}
	return v
}
