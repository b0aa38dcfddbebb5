package fat

import (
	"fmt"
	"io"
	iofs "io/fs"
	"sort"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// maxDirectory is the largest directory in bytes: 65,536 entries, the limit of the format and
// of the kernel (FAT_MAX_DIR_SIZE).
const maxDirectory = 2 << 20

// directory is a parsed directory. It is immutable.
type directory struct {
	entries []entry
	index   []hashed // sorted by hash
	size    int64    // bytes of its clusters
	subdirs uint32
	parent  uint32 // first cluster of what ".." names, rootDir for the root
	upward  bool   // there is a ".."
	label   string // of the volume: in the root only
	memory  int64
	// damage is why the listing may lack something; what was found is in entries.
	damage error
}

// entry is a listed object.
type entry struct {
	name  string
	alias string // the 8.3 name where name is the long one
	ino   fsys.Ino
	dir   bool
}

// hashed is an index entry: the folded name's or alias' hash.
type hashed struct {
	hash  uint32
	entry uint32
}

func (d *directory) bytes() int64 { return d.memory }

// directory returns the parsed directory that starts at a cluster, or the root.
func (f *FS) directory(start uint32) (*directory, error) {
	return f.dirs.Get(start, func() (*directory, error) { return f.readDirectory(start) })
}

// scanner is the state of parsing one directory.
type scanner struct {
	f     *FS
	start uint32
	ino   fsys.Ino // for errors: 0 unless it is the root
	d     *directory
	long  longName
	seen  map[uint32]bool // first clusters of subdirectories
}

// note keeps the first damage.
func (s *scanner) note(at int64, format string, args ...any) {
	if s.d.damage == nil {
		s.d.damage = fsys.Corrupt("fat", "directory", s.ino, at, format, args...)
	}
}

func (f *FS) readDirectory(start uint32) (*directory, error) {
	s := &scanner{f: f, start: start, d: &directory{}, seen: make(map[uint32]bool)}
	g := f.geo
	if start == rootDir {
		s.ino = rootIno
	}
	if start == rootDir && g.bits != 32 {
		s.d.size = g.fixedSize
		if _, err := s.read(g.fixedRoot, g.fixedSize); err != nil {
			return nil, err
		}
		return s.finish()
	}
	first := start
	if start == rootDir {
		first = g.rootStart
	}
	most := uint32(max(maxDirectory/g.cluster, 1))
	c, err := f.readChain(first, most, "directory", s.ino)
	if err != nil {
		return nil, err
	}
	s.d.size = int64(c.count) * g.cluster
	for at := uint32(0); at < c.count; {
		r, err := f.run(c, at)
		if err != nil {
			return nil, err
		}
		end, err := s.read(g.at(r.phys), int64(r.count)*g.cluster)
		if err != nil {
			return nil, err
		}
		if end {
			return s.finish() // nothing behind it matters
		}
		at += r.count
	}
	switch {
	case s.d.damage != nil:
	case c.damage != nil && !c.ended: // it is as long as its chain, so the chain's end is no damage
		s.d.damage = c.damage
	case c.more:
		s.note(g.at(first), "it has more than %d bytes", maxDirectory)
	}
	return s.finish()
}

// readPiece is how much of a directory is read at once, in bytes: a multiple of every entry.
const readPiece = 64 << 10

// read parses n bytes at a place of the volume, and tells whether the directory's end was met.
func (s *scanner) read(at, n int64) (end bool, err error) {
	for n > 0 {
		b := make([]byte, min(n, readPiece))
		if _, err := extent.ReadFull(s.f.dev, b, at); err != nil {
			return false, fmt.Errorf("fat: directory at byte %d of the volume: %w", at, err)
		}
		for in := 0; in < len(b); in += entrySize {
			if b[in] == markEnd {
				return true, nil
			}
			if err := s.entry(b[in:in+entrySize], at+int64(in)); err != nil {
				return false, err
			}
		}
		at, n = at+int64(len(b)), n-int64(len(b))
	}
	return false, nil
}

// entry takes one entry that lies at byte at of the volume.
func (s *scanner) entry(b []byte, at int64) error {
	if b[0] != markDeleted && b[11]&attrLongMask == attrLong {
		s.long.add(b)
		return nil
	}
	d := s.f.geo.decodeDirent(b)
	long := s.long.take(&d)
	switch {
	case d.name[0] == markDeleted:
		return nil
	case d.attr&attrVolume != 0:
		if s.start == rootDir && s.d.label == "" && d.attr&attrDir == 0 {
			s.d.label = volumeLabel(d, s.f)
		}
		return nil
	case d.isDot():
		if d.name[1] == '.' && !s.d.upward {
			s.d.parent, s.d.upward = d.cluster, true
			if d.cluster == s.f.geo.rootStart {
				s.d.parent = rootDir
			}
		}
		return nil
	}
	e := entry{name: long, ino: fsys.Ino(at / entrySize), dir: d.isDir()}
	short := d.shortName(s.f.page)
	if presentable(long) {
		if short != long {
			e.alias = short
		}
	} else if e.name = short; !presentable(short) {
		s.note(at, "an entry is called %.40q", short)
		return nil
	}
	if e.dir {
		why, err := s.subdirectory(d.cluster)
		if err != nil {
			return err
		}
		if why != "" {
			s.note(at, "subdirectory %.64q is left out: %s", e.name, why)
			return nil
		}
		s.d.subdirs++
	}
	s.d.entries = append(s.d.entries, e)
	return nil
}

// subdirectory proves that a subdirectory belongs here: its ".." leads back, and no other entry
// leads to it. So every directory has one path, and no walk is endless. It returns what is wrong.
func (s *scanner) subdirectory(cluster uint32) (string, error) {
	g := s.f.geo
	switch {
	case !g.valid(cluster):
		return fmt.Sprintf("it starts at cluster %d", cluster), nil
	case cluster == g.rootStart && g.bits == 32:
		return "it is the root directory itself", nil
	case s.seen[cluster]:
		return "another entry leads to it, too", nil
	}
	var b [2 * entrySize]byte
	if _, err := extent.ReadFull(s.f.dev, b[:], g.at(cluster)); err != nil {
		return "", fmt.Errorf("fat: directory at byte %d of the volume: %w", g.at(cluster), err)
	}
	d := g.decodeDirent(b[entrySize:])
	if string(d.name[:]) != "..         " || !d.isDir() {
		return "it does not have an entry \"..\"", nil
	}
	up := d.cluster
	if up == g.rootStart && g.bits == 32 {
		up = rootDir
	}
	if up != s.start {
		return "its entry \"..\" leads elsewhere", nil
	}
	s.seen[cluster] = true
	return "", nil
}

// volumeLabel decodes the label in the root directory.
func volumeLabel(d dirent, f *FS) string {
	if d.name[0] == markKanji {
		d.name[0] = markDeleted
	}
	var b strings.Builder
	for _, c := range d.name {
		if r := f.page.DecodeByte(c); r >= ' ' {
			b.WriteRune(r)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// hash is FNV-1a.
func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

// finish makes the index and counts the memory.
func (s *scanner) finish() (*directory, error) {
	d := s.d
	d.index = make([]hashed, 0, 2*len(d.entries))
	d.memory = 256
	for i, e := range d.entries {
		d.index = append(d.index, hashed{hash(fold(e.name)), uint32(i)})
		if e.alias != "" {
			d.index = append(d.index, hashed{hash(fold(e.alias)), uint32(i)})
		}
		d.memory += int64(len(e.name)+len(e.alias)) + 16
	}
	sort.Slice(d.index, func(i, j int) bool {
		a, b := d.index[i], d.index[j]
		return a.hash < b.hash || a.hash == b.hash && a.entry < b.entry
	})
	d.memory += 48*int64(cap(d.entries)) + 8*int64(cap(d.index))
	return d, nil
}

// find returns the entry of that name: exactly, else in other case, else as an alias.
func (d *directory) find(name string) *entry {
	folded := fold(name)
	h := hash(folded)
	var other, alias *entry
	for i := sort.Search(len(d.index), func(i int) bool { return d.index[i].hash >= h }); i < len(d.index) && d.index[i].hash == h; i++ {
		e := &d.entries[d.index[i].entry]
		switch {
		case e.name == name:
			return e
		case other == nil && fold(e.name) == folded:
			other = e
		case alias == nil && e.alias != "" && fold(e.alias) == folded:
			alias = e
		}
	}
	if other != nil {
		return other
	}
	return alias
}

// open returns a directory for listing; fsys.ErrNotDir for a file.
func (f *FS) open(ino fsys.Ino) (*directory, error) {
	var e dirent
	if ino != rootIno {
		var err error
		if e, err = f.entryAt(ino); err != nil {
			return nil, err
		}
		if !e.isDir() {
			return nil, fsys.ErrNotDir
		}
	}
	return f.directoryOf(ino, &e)
}

// ReadDir lists a directory in the order of its entries. Where some of it is damaged the rest is
// listed, and the listing ends with the error in place of io.EOF. A Cookie counts entries.
func (f *FS) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	d, err := f.open(dir)
	if err != nil || len(out) == 0 {
		return 0, err
	}
	n := 0
	for i := from; i < fsys.Cookie(len(d.entries)); i++ {
		if n == len(out) {
			return n, nil
		}
		e := d.entries[i]
		out[n] = fsys.Dirent{Name: e.name, Ino: e.ino, Type: fsys.ModeRegular, Next: i + 1}
		if e.dir {
			out[n].Type = fsys.ModeDir
		}
		n++
	}
	if d.damage != nil {
		return n, d.damage
	}
	return n, io.EOF
}

// maxNameLen is the longest name that can be found: 255 units of at most three bytes.
const maxNameLen = 3 * maxUnits

// Lookup finds a name: as it is listed, else in other case, else by its 8.3 alias. A name that is
// not found in a damaged directory is the damage's error: it may have been there.
func (f *FS) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	d, err := f.open(dir)
	if err != nil {
		return 0, err
	}
	if presentable(name) && len(name) <= maxNameLen {
		if e := d.find(name); e != nil {
			return e.ino, nil
		}
		if d.damage != nil {
			return 0, d.damage
		}
	}
	return 0, fmt.Errorf("fat: %.64q in directory %d: %w", name, dir, iofs.ErrNotExist)
}
