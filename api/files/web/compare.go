package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	// maxDiff bounds what a page reads of a difference, in bytes, and maxDiffRows the lines it shows.
	maxDiff     = 2 << 20
	maxDiffRows = 2000
)

// change is a line of /api/v1/diff.
type change struct {
	Event     string   `json:"event"`
	Path      string   `json:"path"`
	PathBytes []byte   `json:"pathBytes"`
	Changes   []string `json:"changes"`
	From      *side    `json:"from"`
	To        *side    `json:"to"`
	Error     *problem `json:"error"`
	Identical *bool    `json:"identical"`
	First     *int64   `json:"firstDifference"`
	Unified   string   `json:"unified"`
	Why       string   `json:"why"`

	Added   int64 `json:"added"`
	Removed int64 `json:"removed"`
	Changed int64 `json:"changed"`
	Same    int64 `json:"same"`
	Errors  int64 `json:"errors"`
}

type side struct {
	entry
	SHA256 string `json:"sha256"`
}

// comparison is the data of its page.
type comparison struct {
	From, To         string // as the guest has them
	FromHref, ToHref string
	Swap             string
	Files            *change
	Rows             []diffRow
	Folders          []folderChange
	End              *change
	Cut              bool
}

type folderChange struct {
	change
	Raw           string
	Before, After string // addresses
	Compare       string
}

func (s *Site) compare(v *visit) error {
	q := v.r.URL.Query()
	c := comparison{From: q.Get("from"), To: q.Get("to")}
	c.FromHref, c.ToHref, c.Swap = browseURL(c.From), browseURL(c.To), compareURL(c.To, c.From)
	complete, err := lines(s, v, "/api/v1/diff", url.Values{"from": {c.From}, "to": {c.To}}, maxDiff, func(l change) {
		switch {
		case l.Identical != nil:
			c.Files = &l
		case l.Event == "end":
			c.End = &l
		case len(c.Folders) == maxDiffRows:
			c.Cut = true
		default:
			p := exact(l.Path, l.PathBytes)
			f := folderChange{change: l, Raw: p}
			if l.From != nil {
				f.Before = browseURL(join(c.From, p))
			}
			if l.To != nil {
				f.After = browseURL(join(c.To, p))
			}
			if l.From != nil && l.To != nil && l.From.Type == "file" && l.To.Type == "file" {
				f.Compare = compareURL(join(c.From, p), join(c.To, p))
			}
			c.Folders = append(c.Folders, f)
		}
	})
	if err != nil {
		return err
	}
	if c.Files == nil && c.End == nil && len(c.Folders) == 0 && !complete {
		return &problem{Status: http.StatusOK, Title: s.texts.get("compare.title"), Detail: s.texts.get("compare.large"), Advice: s.texts.get("compare.api")}
	}
	c.Cut = c.Cut || !complete
	if c.Files != nil && c.Files.Event == "text" {
		var cut bool
		c.Rows, cut = sideBySide(c.Files.Unified, maxDiffRows)
		c.Cut = c.Cut || cut
	}
	return s.show(v, http.StatusOK, "compare", view{Title: s.texts.get("compare.title"), Up: s.up(c.To), Path: "/", Data: c})
}

// diffRow is a line of two texts beside each other. Kind is "same", "changed", "removed",
// "added" or, between two hunks, "gap". A number of 0 is no line.
type diffRow struct {
	Kind        string
	Left, Right int
	Old, New    string
}

// sideBySide reads a unified difference; lines that were replaced stand beside those that replace them.
func sideBySide(unified string, most int) (rows []diffRow, cut bool) {
	var left, right int
	var old, fresh []string
	flush := func() {
		for i := range max(len(old), len(fresh)) {
			r := diffRow{Kind: "changed"}
			if i < len(old) {
				r.Left, r.Old = left-len(old)+i, old[i]
			} else {
				r.Kind = "added"
			}
			if i < len(fresh) {
				r.Right, r.New = right-len(fresh)+i, fresh[i]
			} else {
				r.Kind = "removed"
			}
			rows = append(rows, r)
		}
		old, fresh = nil, nil
	}
	inside := false
	for line := range strings.Lines(unified) {
		line = strings.TrimRight(line, "\r\n")
		if len(rows)+len(old)+len(fresh) >= most {
			flush()
			return rows, true
		}
		switch {
		case strings.HasPrefix(line, "@@ "):
			flush()
			if inside {
				rows = append(rows, diffRow{Kind: "gap"})
			}
			left, right, inside = hunk(line, '-'), hunk(line, '+'), true
		case !inside, strings.HasPrefix(line, `\`): // the two names; "no newline at end of file"
		case strings.HasPrefix(line, "-"):
			if len(fresh) > 0 {
				flush()
			}
			old = append(old, line[1:])
			left++
		case strings.HasPrefix(line, "+"):
			fresh = append(fresh, line[1:])
			right++
		default:
			flush()
			text := strings.TrimPrefix(line, " ")
			rows = append(rows, diffRow{"same", left, right, text, text})
			left++
			right++
		}
	}
	flush()
	return rows, false
}

// hunk reads a line number of "@@ -1,3 +1,4 @@".
func hunk(line string, sign byte) int {
	i := strings.IndexByte(line, sign)
	if i < 0 {
		return 1
	}
	digits := line[i+1:]
	if j := strings.IndexFunc(digits, func(c rune) bool { return c < '0' || c > '9' }); j >= 0 {
		digits = digits[:j]
	}
	n, _ := strconv.Atoi(digits)
	return n
}
