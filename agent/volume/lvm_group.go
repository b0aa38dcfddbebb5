package volume

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// lvmInstance is a volume group together with the physical volumes that carry it.
type lvmInstance struct {
	s        *lvmScanner
	meta     *lvmGroup
	members  map[string][]*lvmMember // by UUID; more than one: nobody can tell which
	differs  map[string]bool         // logical volumes with two contradicting descriptions
	suffix   string                  // of the group's name in Volume.Name
	warnings warnings
}

func newInstance(s *lvmScanner, best *lvmCopy, copies []*lvmCopy) *lvmInstance {
	in := &lvmInstance{s: s, meta: best.meta, members: make(map[string][]*lvmMember), differs: differs(best, copies)}
	for _, w := range best.meta.warnings {
		in.warn("%s", w)
	}
	if in.differs != nil {
		in.warn("the physical volumes hold different metadata with the same number %d; the logical volumes about which they disagree are not read: %d", best.meta.seqno, len(in.differs))
	}
	return in
}

func (in *lvmInstance) warn(format string, args ...any) { in.warnings.add(format, args...) }

// add takes the physical volumes found for a UUID, and tells their volumes which group is theirs.
func (in *lvmInstance) add(uuid string, ms []*lvmMember) {
	in.members[uuid] = ms
	for _, m := range ms {
		in.s.res.Volumes[m.vol].Group = in.meta.name
	}
}

// offer adds the group and its logical volumes to the result.
func (in *lvmInstance) offer() {
	g := Group{Name: in.meta.name, UUID: in.meta.id, Disks: in.disks(nil)}
	in.outdated()
	var absent []string
	for _, pv := range in.meta.pvs {
		switch ms := in.members[pv.id]; {
		case len(ms) == 0:
			absent = append(absent, pv.String())
		case pv.absent:
			absent = append(absent, pv.String()+", which the guest itself had lost and not taken back")
		case len(ms) > 1:
			in.warn("physical volume %s exists %d times (on the disks %s), as after attaching a clone; volumes that lie on it are not read, because nothing tells which copy the guest used",
				pv.id, len(ms), list(in.names(ms)))
		}
	}
	g.Missing = firstFew(absent, maxMissing)
	for i := range in.meta.lvs {
		if lv := &in.meta.lvs[i]; lv.visible && !lv.pool() {
			in.s.res.Volumes = append(in.s.res.Volumes, in.volume(lv))
		}
	}
	g.Warnings = in.warnings.list()
	in.s.res.Groups = append(in.s.res.Groups, g)
}

// outdated reports physical volumes that left the group while they could not be reached.
func (in *lvmInstance) outdated() {
	for _, m := range in.s.members {
		v := &in.s.res.Volumes[m.vol]
		if m.group != in.meta.id || v.Group != "" {
			continue
		}
		v.Group = in.meta.name
		in.warn("%s of disk %s was a physical volume of this group (%s) that the guest removed from it; it is not used", v.Name, v.Disk, m.label.uuid)
	}
}

// String names a physical volume for a person.
func (pv lvmPV) String() string {
	if pv.hint == "" {
		return pv.id
	}
	return fmt.Sprintf("%s (%s)", pv.id, pv.hint)
}

// pool tells whether a volume holds other volumes' blocks and has no content of its own.
func (lv *lvmLV) pool() bool {
	for _, s := range lv.segments {
		switch s.typeName() {
		case "thin-pool", "cache-pool", "vdo-pool":
			return true
		}
	}
	return false
}

// typeName is the segment's type without the flags that may follow a plus sign.
func (s *lvmSegment) typeName() string {
	name, _, _ := strings.Cut(s.kind, "+")
	return name
}

// volume describes a logical volume and composes its bytes.
func (in *lvmInstance) volume(lv *lvmLV) Volume {
	v := Volume{Name: mangle(in.meta.name) + in.suffix + "-" + mangle(lv.name),
		LV: &LV{Group: in.meta.name, Name: lv.name, UUID: lv.id, Disks: in.disks(lv)}}
	v.Disk = in.firstDisk(lv)
	r, err := in.compose(lv)
	if err != nil {
		v.Err = fmt.Errorf("logical volume %s/%s: %w", in.meta.name, lv.name, err)
		return v
	}
	v.Reader = r
	if label, err := readLVMLabel(r); label != nil || errors.Is(err, fsys.ErrCorrupt) {
		in.warn("logical volume %s is itself an LVM physical volume; a volume group inside a logical volume is not followed", lv.name)
	}
	return v
}

// mangle writes a name as /dev/mapper does: dashes are doubled, a single one separates the
// group from the volume.
func mangle(s string) string { return strings.ReplaceAll(s, "-", "--") }

// compose returns the bytes of a logical volume.
func (in *lvmInstance) compose(lv *lvmLV) (extent.Reader, error) {
	switch {
	case in.meta.refused != nil:
		return nil, in.meta.refused
	case in.differs[lv.name]:
		return nil, fsys.Corrupt("lvm2", "metadata", 0, -1, "copies with the same number %d describe different segments", in.meta.seqno)
	case lv.err != nil:
		return nil, lv.err
	}
	for i := range lv.segments {
		if err := in.supported(&lv.segments[i]); err != nil {
			return nil, err
		}
	}
	if err := in.complete(lv); err != nil {
		return nil, err
	}
	parts := make([]extent.Reader, 0, len(lv.segments))
	for i := range lv.segments {
		r, err := in.segment(lv, &lv.segments[i])
		if err != nil {
			return nil, err
		}
		parts = append(parts, r)
	}
	return extent.Concat(parts...)
}

// supported refuses the segment types that need more than a map of extents.
func (in *lvmInstance) supported(s *lvmSegment) error {
	switch s.kind {
	case "striped", "linear", "zero", "error":
	default:
		return fmt.Errorf("%w: LVM segment type %.40q", fsys.ErrUnsupported, s.typeName())
	}
	for _, t := range s.stripes {
		if _, ok := in.meta.pvs[t.on]; ok {
			continue
		}
		lvs := in.meta.lvs
		if i := sort.Search(len(lvs), func(i int) bool { return lvs[i].name >= t.on }); i < len(lvs) && lvs[i].name == t.on {
			return fmt.Errorf("%w: it lies on the internal volume %s, as while extents are being moved (pvmove)", fsys.ErrUnsupported, t.on)
		}
		return fsys.Corrupt("lvm2", "logical volume", 0, -1, "it lies on %.60q, which the metadata does not describe", t.on)
	}
	return nil
}

// complete tells which physical volumes of a logical volume are missing or doubtful.
func (in *lvmInstance) complete(lv *lvmLV) error {
	var missing, doubtful []string
	seen := make(map[string]bool)
	for i := range lv.segments {
		for _, t := range lv.segments[i].stripes {
			pv := in.meta.pvs[t.on]
			if seen[t.on] {
				continue
			}
			seen[t.on] = true
			switch n := len(in.members[pv.id]); {
			case n == 0 || pv.absent:
				missing = append(missing, pv.String())
			case n > 1:
				doubtful = append(doubtful, pv.id)
			}
		}
	}
	switch {
	case len(missing) > 0:
		err := fmt.Errorf("it lies on physical volumes that are not in this backup: %s; choose a backup with all disks of the VM", list(missing))
		if hidden := in.s.hides(); len(hidden) > 0 {
			return fmt.Errorf("%w: %w, or they are inside %s", fsys.ErrUnsupported, err, list(hidden))
		}
		return err
	case len(doubtful) > 0:
		return fmt.Errorf("it lies on physical volumes that exist more than once in this backup: %s; restore with one of the cloned disks left out", list(doubtful))
	}
	return nil
}

const (
	maxMissing = 256 // physical volumes that Group.Missing names
	maxListed  = 8   // things that one sentence names
)

// firstFew sorts the names and cuts a long list short.
func firstFew(names []string, n int) []string {
	sort.Strings(names)
	if len(names) <= n {
		return names
	}
	return append(names[:n:n], fmt.Sprintf("and %d more", len(names)-n))
}

func list(names []string) string { return strings.Join(firstFew(names, maxListed), ", ") }

// segment composes the bytes of one segment, whose physical volumes are all there.
func (in *lvmInstance) segment(lv *lvmLV, s *lvmSegment) (extent.Reader, error) {
	size, ok := ondisk.Mul(s.count, uint64(in.meta.extent))
	if !ok || size > math.MaxInt64 {
		return nil, fsys.Corrupt("lvm2", "logical volume", 0, -1, "%s has a segment of %d extents", lv.name, s.count)
	}
	switch s.kind {
	case "zero":
		return extent.Zeros(int64(size)), nil
	case "error":
		return failed{int64(size)}, nil
	}
	parts := make([]extent.Reader, 0, len(s.stripes))
	for _, t := range s.stripes {
		r, err := in.stripe(lv, t, s.count/uint64(len(s.stripes)))
		if err != nil {
			return nil, err
		}
		parts = append(parts, r)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	r, err := newStriped(parts, s.stripeSize)
	if err != nil {
		return nil, fsys.Corrupt("lvm2", "logical volume", 0, -1, "%s: %v", lv.name, err)
	}
	return r, nil
}

// stripe returns count extents of a physical volume.
func (in *lvmInstance) stripe(lv *lvmLV, t lvmStripe, count uint64) (extent.Reader, error) {
	pv := in.meta.pvs[t.on]
	if end, ok := ondisk.Add(t.start, count); !ok || end > pv.count {
		return nil, fsys.Corrupt("lvm2", "logical volume", 0, -1, "%s uses extents %d to %d of %s, which has %d", lv.name, t.start, end, pv.id, pv.count)
	}
	v := in.s.res.Volumes[in.members[pv.id][0].vol]
	off, n, ok := ondisk.Range(t.start, count, uint64(in.meta.extent), v.Size()-min(pv.start, v.Size()))
	if !ok {
		return nil, fmt.Errorf("its extents %d to %d of physical volume %s lie behind the end of %s on disk %s (%d bytes): the image is incomplete; try another backup",
			t.start, t.start+count, pv.id, v.Name, v.Disk, v.Size())
	}
	return extent.Section(v.Reader, pv.start+off, n)
}

// failed are the bytes of an error segment: the guest gets an I/O error for them, too.
type failed struct{ size int64 }

var (
	_ extent.Reader = failed{}

	errNoData = errors.New("an LVM error segment: the guest's volume group has no data for this range")
)

func (f failed) Size() int64 { return f.size }

func (f failed) ReadAt(p []byte, off int64) (int, error) {
	n, err := extent.CheckRead(f.size, p, off)
	if n > 0 {
		return 0, errNoData
	}
	return 0, err
}

func (f failed) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.size, off, max)
	return extent.Extent{Len: max}, err
}

// disks names the disks that lv lies on, as far as they were found; those of the group for nil.
func (in *lvmInstance) disks(lv *lvmLV) []string {
	found := make(map[int]bool)
	mark := func(pv lvmPV) {
		for _, m := range in.members[pv.id] {
			found[m.disk] = true
		}
	}
	if lv == nil {
		for _, pv := range in.meta.pvs {
			mark(pv)
		}
	} else {
		for i := range lv.segments {
			for _, t := range lv.segments[i].stripes {
				mark(in.meta.pvs[t.on])
			}
		}
	}
	var out []string
	for i, t := range in.s.res.Tables {
		if found[i] {
			out = append(out, t.Disk)
		}
	}
	return out
}

// firstDisk is the disk of a logical volume's first byte; where that was not found or there is
// none, the first that the volume lies on, and else the first of the group.
func (in *lvmInstance) firstDisk(lv *lvmLV) string {
	if len(lv.segments) > 0 && len(lv.segments[0].stripes) > 0 {
		if ms := in.members[in.meta.pvs[lv.segments[0].stripes[0].on].id]; len(ms) > 0 {
			return in.s.res.Tables[ms[0].disk].Disk
		}
	}
	for _, disks := range [][]string{in.disks(lv), in.disks(nil)} {
		if len(disks) > 0 {
			return disks[0]
		}
	}
	// Metadata of a group whose physical volumes are all lost: the disk that it was read from.
	for _, m := range in.s.members {
		if m.group == in.meta.id {
			return in.s.res.Tables[m.disk].Disk
		}
	}
	return ""
}

// names are the disks of physical volumes.
func (in *lvmInstance) names(ms []*lvmMember) []string {
	var out []string
	for _, m := range ms {
		out = append(out, in.s.res.Tables[m.disk].Disk)
	}
	return out
}
