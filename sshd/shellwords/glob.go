package shellwords

import (
	"errors"
	"regexp"
	"sort"
	"strings"

	"mvdan.cc/sh/v3/pattern"
)

// glob replaces patterns by the names that they match.
type glob struct {
	list List
	left int // names that may still be compared
}

// errCompared: patterns that look at too many names.
var errCompared = errors.New("the pattern would be compared with too many names; name the folder instead")

// paths returns the paths that match pat, sorted, as bytes. A name that begins with a dot is
// matched by a dot only.
func (g *glob) paths(pat string) ([]string, error) {
	parts := strings.Split(pat, "/")
	found := []string{""}
	for i, part := range parts {
		if i > 0 {
			for k := range found {
				found[k] += "/"
			}
		}
		if !pattern.HasMeta(part, 0) {
			for k := range found {
				found[k] += unescape(part, "")
			}
			continue
		}
		expr, err := pattern.Regexp(part, pattern.Filenames|pattern.EntireString|pattern.NoGlobStar)
		if err != nil {
			return nil, nil // no pattern after all: the word stands for itself
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return nil, nil
		}
		var next []string
		for _, base := range found {
			names, err := g.match(base, re, strings.HasPrefix(part, "."))
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				next = append(next, base+n)
			}
			if len(next) > MaxWords {
				return nil, ErrTooLong
			}
		}
		found = next
	}
	if !strings.ContainsAny(lastPart(parts), "*?[") {
		found = g.existing(found)
	}
	return found, nil
}

func lastPart(parts []string) string { return parts[len(parts)-1] }

// match returns the sorted names in the folder base that re matches.
func (g *glob) match(base string, re *regexp.Regexp, dots bool) ([]string, error) {
	if base == "" {
		base = "."
	}
	var names []string
	err := g.list(base, func(name string) bool {
		if g.left--; g.left < 0 {
			return false
		}
		if (dots || !strings.HasPrefix(name, ".")) && re.MatchString(encode(name)) {
			names = append(names, name)
		}
		return len(names) <= MaxWords
	})
	switch {
	case g.left < 0:
		return nil, errCompared
	case err != nil:
		return nil, nil
	}
	sort.Strings(names)
	return names, nil
}

// existing keeps the paths whose last, plain name is there. The folder before it may be large,
// so it is asked for as a folder first.
func (g *glob) existing(paths []string) []string {
	var out []string
	for _, p := range paths {
		dir, name := ".", p
		if i := strings.LastIndexByte(strings.TrimRight(p, "/"), '/'); i >= 0 {
			dir, name = p[:i+1], p[i+1:]
		}
		name = strings.TrimRight(name, "/")
		there := g.list(p, func(string) bool { return false }) == nil
		if !there && !strings.HasSuffix(p, "/") {
			_ = g.list(dir, func(n string) bool {
				g.left--
				there = n == name
				return !there && g.left >= 0
			})
		}
		if there {
			out = append(out, p)
		}
	}
	return out
}
