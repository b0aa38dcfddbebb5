package archive

import (
	"fmt"
	"strings"

	"vmfr/agent/tree"
)

// maxProblems bounds what is written down of an archive's problems, in bytes.
const maxProblems = 1 << 20

// problems collects what the archive lacks, for the text at its end.
type problems struct {
	count int
	lines strings.Builder
}

// add notes one problem of the object at path.
func (p *problems) add(path, format string, args ...any) {
	p.count++
	if p.lines.Len() < maxProblems {
		fmt.Fprintf(&p.lines, "%q: %s\n", path, fmt.Sprintf(format, args...))
	}
}

// fail notes an error of the tree.
func (p *problems) fail(path string, err error) {
	p.add(path, "it is missing here: %v. %s", err, tree.KindOf(err).Advice())
}

// text is the file at the end of the archive.
func (p *problems) text() string {
	s := fmt.Sprintf("This archive differs from the backup in %d places. Names are quoted as in the Go language.\n\n", p.count) + p.lines.String()
	if p.lines.Len() >= maxProblems {
		s += "... and further ones, which are too many to be named here.\n"
	}
	return s
}
