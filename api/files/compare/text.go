// Package compare tells how two files or two folders of the tree differ.
//
// Non-goals: no renames are guessed, no symbolic link is followed. Invariants: the work and the
// memory of one comparison are bounded however the contents were made; folders are compared in
// sorted order with the names of the folders on the way in memory, from an account.
package compare

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	"github.com/aymanbagabas/go-udiff/lcs"
	"golang.org/x/text/encoding/unicode"
)

const (
	// MaxText is the length up to which a file is compared line by line, in bytes: larger ones
	// have differences that nobody reads.
	MaxText = 4 << 20
	// maxLines bounds the lines of a text.
	maxLines = 200_000
)

// Text returns b as text: as it is where it is UTF-8, decoded where it begins with the mark of
// UTF-16, which Windows writes. encoding is empty where b is no text.
func Text(b []byte) (text, encoding string) {
	switch {
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}), bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		d, err := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewDecoder().Bytes(b)
		if err != nil || bytes.IndexByte(d, 0) >= 0 {
			return "", ""
		}
		return string(d), "utf-16"
	case bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b):
		return "", ""
	}
	return string(b), "utf-8"
}

// Unified returns the difference of two texts as unified diff with three lines of context,
// empty where they are equal; false: they have too many lines.
func Unified(from, to, a, b string) (string, bool) {
	edits, ok := lineEdits(a, b)
	if !ok {
		return "", false
	}
	u, err := udiff.ToUnified(from, to, a, edits, udiff.DefaultContextLines)
	return u, err == nil
}

// lineEdits compares lines as if each different one were a character: the library's bounded
// search for the longest common subsequence then works on lines.
func lineEdits(a, b string) ([]udiff.Edit, bool) {
	number := map[string]rune{}
	split := func(s string) (lines []rune, starts []int) {
		for at := 0; at < len(s); {
			end := len(s)
			if i := strings.IndexByte(s[at:], '\n'); i >= 0 {
				end = at + i + 1
			}
			line := s[at:end]
			n, ok := number[line]
			if !ok {
				n = rune(len(number))
				number[line] = n
			}
			lines, starts = append(lines, n), append(starts, at)
			at = end
		}
		return lines, append(starts, len(s))
	}
	la, sa := split(a)
	lb, sb := split(b)
	if len(la) > maxLines || len(lb) > maxLines {
		return nil, false
	}
	var edits []udiff.Edit
	match(la, lb, 0, 0, 0, func(x0, x1, y0, y1 int) {
		edits = append(edits, udiff.Edit{Start: sa[x0], End: sa[x1], New: b[sb[y0]:sb[y1]]})
	})
	return edits, true
}

// maxSplits bounds how deep match divides.
const maxSplits = 40

// match divides two sequences at lines that each has once, in the order that both have them
// (patience), and lets the library compare what is between: its search gives up after a number
// of differences, and then leaves what is left as one. xa and xb are where the parts begin.
func match(a, b []rune, xa, xb, depth int, edit func(x0, x1, y0, y1 int)) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b, xa, xb = a[1:], b[1:], xa+1, xb+1
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 0 || len(b) == 0 {
		if len(a)+len(b) > 0 {
			edit(xa, xa+len(a), xb, xb+len(b))
		}
		return
	}
	anchors := common(a, b)
	if len(anchors) == 0 || depth >= maxSplits {
		for _, d := range lcs.DiffRunes(a, b) {
			edit(xa+d.Start, xa+d.End, xb+d.ReplStart, xb+d.ReplEnd)
		}
		return
	}
	pa, pb := 0, 0
	for _, p := range append(anchors, [2]int{len(a), len(b)}) {
		match(a[pa:p[0]], b[pb:p[1]], xa+pa, xb+pb, depth+1, edit)
		pa, pb = p[0]+1, p[1]+1
	}
}

// common returns the longest list of positions, ascending in both, of lines that are in each of
// the two once.
func common(a, b []rune) [][2]int {
	type count struct{ na, nb, at int }
	seen := make(map[rune]*count, len(a))
	for _, r := range a {
		if c := seen[r]; c != nil {
			c.na++
		} else {
			seen[r] = &count{na: 1}
		}
	}
	for i, r := range b {
		if c := seen[r]; c != nil {
			c.nb++
			c.at = i
		}
	}
	// Longest increasing subsequence by piles: prev links each card to the one below it.
	type card struct{ x, y, prev int }
	var cards []card
	var piles []int
	for i, r := range a {
		c := seen[r]
		if c.na != 1 || c.nb != 1 {
			continue
		}
		lo, hi := 0, len(piles)
		for lo < hi {
			mid := (lo + hi) / 2
			if cards[piles[mid]].y < c.at {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		prev := -1
		if lo > 0 {
			prev = piles[lo-1]
		}
		cards = append(cards, card{i, c.at, prev})
		if lo == len(piles) {
			piles = append(piles, len(cards)-1)
		} else {
			piles[lo] = len(cards) - 1
		}
	}
	if len(piles) == 0 {
		return nil
	}
	out := make([][2]int, len(piles))
	for i, k := len(piles)-1, piles[len(piles)-1]; i >= 0; i, k = i-1, cards[k].prev {
		out[i] = [2]int{cards[k].x, cards[k].y}
	}
	return out
}
