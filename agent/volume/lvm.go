package volume

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"sort"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
	"vmfr/agent/probe"
)

// LVM2 on all disks of one backup. A volume group is known by its UUID; every physical volume
// may hold copies of its metadata, of which the one with the highest sequence number is in
// force. Nothing depends on the order of the disks, except which of them is named first.
const (
	// maxLVMRead bounds the metadata read in one scan, in bytes: 64 physical volumes, each
	// with a text as large as LVM's default areas allow (the half of 1 MiB), twice.
	maxLVMRead = 64 << 20
	// maxLVMTokensTotal bounds what is parsed in one scan.
	maxLVMTokensTotal = 2 * maxLVMTokens
)

// lvmMember is a physical volume that was found.
type lvmMember struct {
	vol    int // index of its volume in the scan's result
	disk   int // index of its disk
	label  *lvmLabel
	copies []*lvmCopy // of its own areas
	damage error      // of its areas
	group  string     // UUID of the group that its newest copy describes
}

// lvmCopy is one distinct metadata text.
type lvmCopy struct {
	sum  [sha256.Size]byte
	meta *lvmGroup
	err  error
}

// lvmScanner is the state of looking for volume groups.
type lvmScanner struct {
	res      *Result
	disks    map[string]int // by name
	warnings []warnings     // by disk
	members  []*lvmMember
	copies   map[[sha256.Size]byte]*lvmCopy
	reads    *ondisk.Budget
	tokens   *ondisk.Budget
	hidden   []string // volumes that may hide physical volumes inside
}

// scanLVM adds the groups and logical volumes to a result that has the partitions of all disks.
func scanLVM(res *Result, disks []Disk) {
	s := &lvmScanner{
		res: res, disks: make(map[string]int), warnings: make([]warnings, len(disks)),
		copies: make(map[[sha256.Size]byte]*lvmCopy),
		reads:  ondisk.NewBudget("reading LVM metadata", maxLVMRead),
		tokens: ondisk.NewBudget("parsing LVM metadata", maxLVMTokensTotal),
	}
	for i, d := range disks {
		s.disks[d.Name] = i
	}
	for i := range res.Volumes {
		s.find(i)
	}
	if len(s.members) > 0 {
		s.groups()
		s.orphans()
	}
	for i := range s.warnings {
		res.Tables[i].Warnings = append(res.Tables[i].Warnings, s.warnings[i].list()...)
	}
	// Logical volumes come after the partitions of their disk; both are in order by themselves.
	sort.SliceStable(res.Volumes, func(i, j int) bool {
		return s.disks[res.Volumes[i].Disk] < s.disks[res.Volumes[j].Disk]
	})
	sort.SliceStable(res.Groups, func(i, j int) bool {
		a, b := res.Groups[i], res.Groups[j]
		return a.Name < b.Name || a.Name == b.Name && a.UUID < b.UUID
	})
}

// find looks for a physical volume on volume i and reads its metadata areas.
func (s *lvmScanner) find(i int) {
	v := &s.res.Volumes[i]
	disk := s.disks[v.Disk]
	label, err := readLVMLabel(v.Reader)
	switch {
	case errors.Is(err, fsys.ErrCorrupt):
		s.warnings[disk].add("%s: %v; it is not taken for a physical volume", v.Name, err)
	case err != nil:
		s.warnings[disk].add("%s: looking for an LVM label: %v", v.Name, err)
	}
	if label == nil {
		return
	}
	if sig := probe.Identify(v.Reader); sig.Type == mdMember {
		return // a leg of a mirror that keeps its superblock at the end
	}
	m := &lvmMember{vol: i, disk: disk, label: label}
	if label.size > uint64(v.Size()) {
		s.warnings[disk].add("%s: the LVM physical volume has %d bytes, but only %d are here; is the image complete?", v.Name, label.size, v.Size())
	}
	for _, a := range label.areas {
		c, err := s.copyAt(v, a)
		switch {
		case err != nil:
			m.damage = errors.Join(m.damage, err)
			s.warnings[disk].add("%s: %v", v.Name, err)
		case c != nil:
			m.copies = append(m.copies, c)
		}
	}
	if best := newest(m.copies); best != nil {
		m.group = best.meta.id
	}
	s.members = append(s.members, m)
}

// mdMember is what probe calls a member of a Linux software RAID.
const mdMember = "linux_raid_member"

// copyAt reads and parses the text of one area; equal texts are parsed once.
func (s *lvmScanner) copyAt(v *Volume, a lvmArea) (*lvmCopy, error) {
	text, err := readLVMText(v.Reader, a, s.reads)
	if text == nil || err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	c := s.copies[sum]
	if c == nil {
		c = &lvmCopy{sum: sum}
		c.meta, c.err = s.parse(text)
		s.copies[sum] = c
	}
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

func (s *lvmScanner) parse(text []byte) (*lvmGroup, error) {
	if s.tokens.Left() == 0 {
		return nil, fmt.Errorf("%w: more LVM metadata than is parsed for one backup", fsys.ErrUnsupported)
	}
	limit := min(s.tokens.Left(), maxLVMTokens)
	budget := ondisk.NewBudget("LVM metadata text", limit)
	root, err := parseLVMText(string(text), budget)
	_ = s.tokens.Spend(limit - budget.Left()) // never more than is left
	if errors.Is(err, ondisk.ErrBudget) {
		return nil, fmt.Errorf("%w: %w", fsys.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	return decodeLVM(root)
}

// newest returns the copy in force: of the highest sequence number, and of several such the
// one whose digest comes first, so that the choice depends on no order.
func newest(copies []*lvmCopy) *lvmCopy {
	var best *lvmCopy
	for _, c := range copies {
		if best == nil || c.meta.seqno > best.meta.seqno ||
			c.meta.seqno == best.meta.seqno && string(c.sum[:]) < string(best.sum[:]) {
			best = c
		}
	}
	return best
}

// groups assembles every volume group that some metadata describes.
func (s *lvmScanner) groups() {
	copies := make(map[string][]*lvmCopy) // by group
	for _, m := range s.members {
		for _, c := range m.copies {
			copies[c.meta.id] = append(copies[c.meta.id], c)
		}
	}
	ids := make([]string, 0, len(copies))
	for id := range copies {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	var found []*lvmInstance
	for _, id := range ids {
		best := newest(copies[id])
		found = append(found, s.instances(id, best, copies[id])...)
	}
	names := make(map[string]map[string]bool) // group name -> UUIDs
	for _, in := range found {
		if names[in.meta.name] == nil {
			names[in.meta.name] = make(map[string]bool)
		}
		names[in.meta.name][in.meta.id] = true
	}
	for _, in := range found {
		if n := len(names[in.meta.name]); n > 1 {
			in.suffix = "~" + in.meta.id
			in.warn("%d volume groups of this backup are called %s; the names of their volumes carry the group's UUID here", n, in.meta.name)
		}
		in.offer()
	}
}

// instances decides which physical volumes make up a group. Where one exists twice, as after
// attaching a clone of a disk, the copies are told apart by disk if each disk holds the whole
// group; otherwise the volumes that need the doubtful one are refused: which of the two the
// guest used is not recorded anywhere.
func (s *lvmScanner) instances(id string, best *lvmCopy, copies []*lvmCopy) []*lvmInstance {
	wanted := make(map[string]bool)
	for _, pv := range best.meta.pvs {
		wanted[pv.id] = true
	}
	byUUID := make(map[string][]*lvmMember)
	byDisk := make(map[int][]*lvmMember)
	twice := false
	for _, m := range s.members {
		if !wanted[m.label.uuid] || m.group != "" && m.group != id {
			continue
		}
		byUUID[m.label.uuid] = append(byUUID[m.label.uuid], m)
		byDisk[m.disk] = append(byDisk[m.disk], m)
		twice = twice || len(byUUID[m.label.uuid]) > 1
	}
	if twice {
		if split := s.split(byDisk); split != nil {
			return split
		}
	}
	in := newInstance(s, best, copies)
	for uuid, ms := range byUUID {
		in.add(uuid, ms)
	}
	return []*lvmInstance{in}
}

// split makes an instance for each disk, or returns nil where some disk does not hold its group
// alone and once.
func (s *lvmScanner) split(byDisk map[int][]*lvmMember) []*lvmInstance {
	var out []*lvmInstance
	for disk := range s.warnings {
		ms := byDisk[disk]
		if ms == nil {
			continue
		}
		var own []*lvmCopy
		for _, m := range ms {
			own = append(own, m.copies...)
		}
		best := newest(own)
		if best == nil || len(best.meta.pvs) != len(ms) {
			return nil
		}
		in := newInstance(s, best, own)
		for _, m := range ms {
			if len(in.members[m.label.uuid]) > 0 {
				return nil
			}
			in.add(m.label.uuid, []*lvmMember{m})
		}
		for _, pv := range best.meta.pvs {
			if len(in.members[pv.id]) == 0 {
				return nil
			}
		}
		out = append(out, in)
	}
	for _, in := range out {
		in.warn("%d disks of this backup hold volume group %s with the same UUIDs: one is a clone of the other; each is shown on its own disk and they are not mixed",
			len(out), in.meta.name)
	}
	return out
}

// differs returns the names of the logical volumes about which copies of the same sequence
// number tell different things.
func differs(best *lvmCopy, copies []*lvmCopy) map[string]bool {
	var out map[string]bool
	seen := map[*lvmCopy]bool{best: true}
	for _, c := range copies {
		if seen[c] || c.meta.seqno != best.meta.seqno {
			continue
		}
		seen[c] = true
		if out == nil {
			out = make(map[string]bool)
		}
		other := make(map[string]lvmLV, len(c.meta.lvs))
		for _, lv := range c.meta.lvs {
			other[lv.name] = lv
		}
		same := c.meta.extent == best.meta.extent && reflect.DeepEqual(c.meta.pvs, best.meta.pvs)
		for _, lv := range best.meta.lvs {
			if o := other[lv.name]; !same || !reflect.DeepEqual(lv, o) {
				out[lv.name] = true
			}
		}
	}
	return out
}

// orphans reports the physical volumes that no group claims.
func (s *lvmScanner) orphans() {
	for _, m := range s.members {
		v := &s.res.Volumes[m.vol]
		if v.Group != "" {
			continue
		}
		if m.damage != nil {
			v.Err = fmt.Errorf("LVM physical volume %s: its metadata cannot be used and no other disk of this backup has a copy; try another backup, or vgcfgrestore on a copy of the raw disk: %w",
				m.label.uuid, m.damage)
			v.Reader = nil
			continue
		}
		s.warnings[m.disk].add("%s is an LVM physical volume (%s) of no volume group that this backup describes; if it had one, the disks with its metadata are missing here",
			v.Name, m.label.uuid)
	}
}

// hides lists the volumes in which physical volumes may be that only another engine sees.
func (s *lvmScanner) hides() []string {
	if s.hidden == nil {
		s.hidden = []string{}
		for _, v := range s.res.Volumes {
			if v.Reader == nil || v.Group != "" || v.LV != nil {
				continue
			}
			if sig := probe.Identify(v.Reader); sig.Kind == probe.KindContainer && sig.Type != "LVM2_member" {
				s.hidden = append(s.hidden, fmt.Sprintf("%s of disk %s (%s)", v.Name, v.Disk, sig.Type))
			}
		}
	}
	return s.hidden
}
