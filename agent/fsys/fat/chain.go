package fat

import (
	"sort"

	"vmfr/agent/fsys"
)

// maxMarks bounds the memory of one chain to 128 KiB. A chain with more runs than that keeps
// every second, fourth, ... of them and reads what lies between from the table again.
const maxMarks = 16 << 10

// chain is the list of clusters of a file, as far as its size needs them.
type chain struct {
	// marks are the starts of runs, ascending by logical. With stride 1 they are all runs.
	marks  []mark
	stride int
	needed uint32 // clusters that were asked for
	count  uint32 // clusters that were found good, from the first on
	ended  bool   // the chain ends properly after count clusters
	more   bool   // the chain is longer than needed
	damage error  // why count is less than needed, nil where it is not
}

// mark tells that cluster number logical of the file is cluster phys of the volume.
type mark struct{ logical, phys uint32 }

func (c *chain) bytes() int64 { return 160 + 8*int64(cap(c.marks)) }

// run is a piece of a file that lies together.
type run struct {
	logical, count, phys uint32
}

// readChain follows the chain from first on until it has the n clusters that are needed. What
// ends it early is kept in damage, except for an I/O error, which is returned.
//
// A chain that meets itself has no end. If that happens within n clusters, Brent's algorithm
// sees it within 3n steps; so the walk goes that far where the chain does not end before.
func (f *FS) readChain(first, n uint32, what string, ino fsys.Ino) (*chain, error) {
	c := &chain{stride: 1, needed: n}
	bad := func(format string, args ...any) (*chain, error) {
		at := int64(-1)
		if f.geo.valid(first) {
			at = f.geo.at(first)
		}
		c.damage = fsys.Corrupt("fat", what, ino, at, format, args...)
		return c, nil
	}
	cur := f.table.cursor()
	steps := 3*uint64(n) + 8
	hare, tortoise, power, lam := first, first, uint64(1), uint64(0)
	runs := 0
	prev := uint32(0)
	for i := uint64(0); ; i++ {
		if !f.geo.valid(hare) {
			if i < uint64(n) {
				return bad("cluster %d of it should be number %d of the volume, which has %d", i, hare, f.geo.clusters)
			}
			return c, nil // the excess is damaged, the file is not
		}
		if i < uint64(n) {
			if i == 0 || hare != prev+1 {
				c.mark(uint32(i), hare, runs)
				runs++
			}
			c.count = uint32(i) + 1
			prev = hare
		}
		if i == steps {
			return c, nil
		}
		c.more = i >= uint64(n)
		next, err := cur.entry(hare)
		if err != nil {
			return nil, err
		}
		top := f.table.top()
		switch {
		case next >= top:
			c.ended = true
			if c.count < n {
				return bad("its chain ends after %d of %d clusters", c.count, n)
			}
			return c, nil
		case i+1 >= uint64(n) && !f.geo.valid(next):
			return c, nil
		case next == top-1:
			return bad("cluster %d is marked as bad in the middle of the chain", hare)
		case next == 0:
			return bad("the chain goes on after cluster %d with one that is free", hare)
		}
		if power == lam {
			tortoise, power, lam = hare, 2*power, 0
		}
		hare = next
		lam++
		if hare == tortoise {
			c.marks, c.count = nil, 0
			return bad("the chain meets itself at cluster %d", hare)
		}
	}
}

// mark adds a run's start; n is how many came before.
func (c *chain) mark(logical, phys uint32, n int) {
	if n%c.stride != 0 {
		return
	}
	if len(c.marks) == maxMarks {
		for i := range maxMarks / 2 {
			c.marks[i] = c.marks[2*i]
		}
		c.marks = c.marks[:maxMarks/2]
		c.stride *= 2
		if n%c.stride != 0 {
			return
		}
	}
	c.marks = append(c.marks, mark{logical, phys})
}

// run returns what lies at cluster logical < c.count of the file; the result starts there.
func (f *FS) run(c *chain, logical uint32) (run, error) {
	i := sort.Search(len(c.marks), func(i int) bool { return c.marks[i].logical > logical }) - 1
	m, end := c.marks[i], c.count
	if i+1 < len(c.marks) {
		end = c.marks[i+1].logical
	}
	if c.stride > 1 {
		// Several runs lie between two marks; the table was good when the marks were made.
		cur := f.table.cursor()
		from := m
		for at := m; ; {
			next, err := cur.entry(at.phys)
			if err != nil {
				return run{}, err
			}
			if at.logical+1 >= end {
				break
			}
			at = mark{at.logical + 1, next}
			if next != from.phys+(at.logical-from.logical) {
				if at.logical > logical {
					end = at.logical
					break
				}
				from = at
			}
		}
		m = from
	}
	in := logical - m.logical
	return run{logical, end - logical, m.phys + in}, nil
}
