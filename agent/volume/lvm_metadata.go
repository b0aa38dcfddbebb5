package volume

import (
	"fmt"
	"math"
	"sort"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// lvmGroup is one version of a volume group's metadata.
type lvmGroup struct {
	id, name string
	seqno    uint64
	extent   int64 // bytes
	pvs      map[string]lvmPV
	lvs      []lvmLV // sorted by name
	// refused is why nothing of the group can be read although its metadata is intact.
	refused  error
	warnings []string
}

// lvmPV is a physical volume as its group's metadata sees it.
type lvmPV struct {
	id, hint string // hint: its last device name in the guest
	start    int64  // of the first extent, in bytes
	count    uint64 // extents
	absent   bool   // the guest lost it at some time and has not accepted it again
}

// lvmLV is a logical volume.
type lvmLV struct {
	id, name string
	visible  bool
	segments []lvmSegment // contiguous from extent 0
	err      error        // why it cannot be read whatever the physical volumes are
}

// lvmSegment maps extents [start, start+count) of a logical volume.
type lvmSegment struct {
	start, count uint64
	kind         string
	stripes      []lvmStripe
	stripeSize   int64  // bytes; of a single stripe without meaning
	origin, cow  string // of a snapshot
	merging      bool   // of a snapshot: it flows back into its origin
}

type lvmStripe struct {
	on    string // a physical volume's name in the metadata, or a logical volume's
	start uint64 // extent
}

const (
	maxLVMName    = 127
	maxLVMHint    = 255
	maxLVMStripes = 1024 // LVM stops at 128
)

// decodeLVM makes sense of a parsed text. Errors: fsys.ErrCorrupt, fsys.ErrUnsupported.
func decodeLVM(root *lvmSection) (*lvmGroup, error) {
	bad := func(format string, args ...any) (*lvmGroup, error) {
		return nil, fsys.Corrupt("lvm2", "metadata", 0, -1, format, args...)
	}
	if c := root.str("contents"); c != "Text Format Volume Group" {
		return bad("its contents are %.60q", c)
	}
	if v, ok := root.num("version"); !ok || v != 1 {
		return nil, fmt.Errorf("%w: version %d of LVM metadata", fsys.ErrUnsupported, v)
	}
	if len(root.sub) != 1 {
		return bad("it describes %d volume groups", len(root.sub))
	}
	s := root.sub[0]
	g := &lvmGroup{id: s.str("id"), name: strings.Clone(s.name), pvs: make(map[string]lvmPV)}
	if !lvmPrintedUUID(g.id) || !lvmName(g.name) {
		return bad("its volume group is %.60q with the UUID %.60q", g.name, g.id)
	}
	var ok bool
	if g.seqno, ok = s.num("seqno"); !ok {
		return bad("it has no sequence number")
	}
	sectors, ok := s.num("extent_size")
	if !ok || sectors == 0 || sectors > math.MaxUint32 {
		return bad("its extents have %d sectors", sectors)
	}
	g.extent = int64(sectors) * lvmSector
	g.status(s)
	for _, p := range s.section("physical_volumes").sub {
		pv, err := decodeLVMPV(p)
		if err != nil {
			return nil, err
		}
		if _, twice := g.pvs[p.name]; twice {
			return bad("two physical volumes are called %.60q", p.name)
		}
		g.pvs[strings.Clone(p.name)] = pv
	}
	lvs := s.section("logical_volumes").sub
	for _, l := range lvs {
		if !lvmName(l.name) {
			return bad("a logical volume is called %.60q", l.name)
		}
		g.lvs = append(g.lvs, g.decodeLV(l))
	}
	sort.Slice(g.lvs, func(i, j int) bool { return g.lvs[i].name < g.lvs[j].name })
	for i := 1; i < len(g.lvs); i++ {
		if g.lvs[i].name == g.lvs[i-1].name {
			return bad("two logical volumes are called %q", g.lvs[i].name)
		}
	}
	g.snapshots()
	return g, nil
}

// status judges the group's flags as LVM does: an unknown one in "status" changes what the
// metadata means, one in "flags" does not.
func (g *lvmGroup) status(s *lvmSection) {
	for _, f := range s.flags("status") {
		switch f {
		case "RESIZEABLE", "READ", "WRITE", "PVMOVE":
		case "EXPORTED":
			g.warnings = append(g.warnings, "the guest exported this volume group (vgexport); its volumes are shown all the same")
		case "CLUSTERED", "SHARED":
			g.shared()
		default:
			g.refused = fmt.Errorf("%w: LVM volume group %s has the unknown status %.40q", fsys.ErrUnsupported, g.name, f)
		}
	}
	if lock := s.str("lock_type"); lock != "" && lock != "none" {
		g.shared()
	}
}

func (g *lvmGroup) shared() {
	const warning = "the volume group is shared by several machines: another one may have been writing when this backup was made"
	for _, w := range g.warnings {
		if w == warning {
			return
		}
	}
	g.warnings = append(g.warnings, warning)
}

func decodeLVMPV(s *lvmSection) (lvmPV, error) {
	pv := lvmPV{id: s.str("id")}
	if hint := s.str("device"); len(hint) <= maxLVMHint && text(hint) {
		pv.hint = hint
	}
	start, ok1 := s.num("pe_start")
	count, ok2 := s.num("pe_count")
	if !lvmPrintedUUID(pv.id) || !ok1 || !ok2 || start > math.MaxInt64/lvmSector {
		return pv, fsys.Corrupt("lvm2", "metadata", 0, -1, "physical volume %.60q with UUID %.60q has %d extents from sector %d on", s.name, pv.id, count, start)
	}
	pv.start, pv.count = int64(start)*lvmSector, count
	for _, f := range append(s.flags("status"), s.flags("flags")...) {
		pv.absent = pv.absent || f == "MISSING"
	}
	return pv, nil
}

// decodeLV decodes one logical volume; what is wrong with it is an error of it alone.
func (g *lvmGroup) decodeLV(s *lvmSection) lvmLV {
	lv := lvmLV{name: strings.Clone(s.name)}
	if id := s.str("id"); lvmPrintedUUID(id) {
		lv.id = id
	}
	for _, f := range s.flags("status") {
		switch f {
		case "VISIBLE":
			lv.visible = true
		case "READ", "WRITE", "FIXED_MINOR", "LOCKED", "PVMOVE":
		default:
			lv.err = fmt.Errorf("%w: LVM status %.40q", fsys.ErrUnsupported, f)
		}
	}
	if err := lv.decodeSegments(s); err != nil {
		lv.segments, lv.err = nil, err
	}
	return lv
}

func (lv *lvmLV) decodeSegments(s *lvmSection) error {
	bad := func(format string, args ...any) error {
		return fsys.Corrupt("lvm2", "logical volume", 0, -1, "%s: %s", lv.name, fmt.Sprintf(format, args...))
	}
	for _, c := range s.sub {
		if !strings.HasPrefix(c.name, "segment") {
			continue
		}
		g := lvmSegment{kind: c.str("type"), origin: c.str("origin"), cow: c.str("cow_store")}
		if m := c.str("merging_store"); m != "" {
			g.cow, g.merging = m, true
		}
		var ok1, ok2 bool
		g.start, ok1 = c.num("start_extent")
		g.count, ok2 = c.num("extent_count")
		if !ok1 || !ok2 || g.count == 0 || g.kind == "" {
			return bad("%.40q has type %.40q and %d extents from %d on", c.name, g.kind, g.count, g.start)
		}
		if g.kind == "striped" || g.kind == "linear" {
			if err := g.decodeStripes(c); err != nil {
				return bad("%.40q: %v", c.name, err)
			}
		}
		lv.segments = append(lv.segments, g)
	}
	sort.Slice(lv.segments, func(i, j int) bool { return lv.segments[i].start < lv.segments[j].start })
	next := uint64(0)
	for _, g := range lv.segments {
		if g.start != next {
			return bad("a segment starts at extent %d where extent %d is the next", g.start, next)
		}
		var ok bool
		if next, ok = ondisk.Add(g.start, g.count); !ok {
			return bad("a segment of %d extents starts at extent %d", g.count, g.start)
		}
	}
	if want, ok := s.num("segment_count"); !ok || want != uint64(len(lv.segments)) {
		return bad("%d segments are announced and %d exist", want, len(lv.segments))
	}
	return nil
}

func (s *lvmSegment) decodeStripes(c *lvmSection) error {
	list := c.values["stripes"]
	n, ok := c.num("stripe_count")
	if !ok || n == 0 || n > maxLVMStripes || uint64(len(list)) != 2*n {
		return fmt.Errorf("%d stripes in a list of %d values", n, len(list))
	}
	if s.count%n != 0 {
		return fmt.Errorf("%d extents on %d stripes", s.count, n)
	}
	for i := 0; i < len(list); i += 2 {
		start, ok := list[i+1].num()
		if !ok || !list[i].quoted {
			return fmt.Errorf("stripe %d is on %.40q at extent %.40q", i/2, list[i].text, list[i+1].text)
		}
		s.stripes = append(s.stripes, lvmStripe{strings.Clone(list[i].text), start})
	}
	if n > 1 {
		sectors, ok := c.num("stripe_size")
		if !ok || sectors == 0 || sectors > math.MaxUint32 {
			return fmt.Errorf("stripes of %d sectors", sectors)
		}
		s.stripeSize = int64(sectors) * lvmSector
	}
	return nil
}

// snapshots marks what copy-on-write snapshots change. A snapshot is a hidden volume that names
// its origin and its store: the store carries the snapshot's name and holds differences only,
// while the origin reads as if there were no snapshot unless one is being merged into it.
func (g *lvmGroup) snapshots() {
	by := make(map[string]*lvmLV, len(g.lvs))
	for i := range g.lvs {
		by[g.lvs[i].name] = &g.lvs[i]
	}
	for i := range g.lvs {
		for _, s := range g.lvs[i].segments {
			if s.kind != "snapshot" {
				continue
			}
			if lv := by[s.cow]; lv != nil {
				lv.err = fmt.Errorf("%w: LVM snapshot of %s", fsys.ErrUnsupported, s.origin)
			}
			if lv := by[s.origin]; lv != nil && s.merging {
				lv.err = fmt.Errorf("%w: LVM snapshot %s is being merged into it", fsys.ErrUnsupported, s.cow)
			}
		}
	}
}

// lvmPrintedUUID tells whether s is a UUID as LVM prints it.
func lvmPrintedUUID(s string) bool {
	u, ok := lvmUUID(strings.ReplaceAll(s, "-", ""))
	return ok && u == s
}

// text tells whether s is printable ASCII.
func text(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// lvmName tells whether LVM allows s as the name of a group or volume (lvm(8), "Valid names").
func lvmName(s string) bool {
	if s == "" || s == "." || s == ".." || s[0] == '-' || len(s) > maxLVMName {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("+_.-", c) >= 0) {
			return false
		}
	}
	return true
}
