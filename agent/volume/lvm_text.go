package volume

import (
	"strconv"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// LVM2 keeps a volume group as text in the syntax of lvm.conf(5), as far as LVM writes it:
//
//	section { key = value  key = [value, value] }  # comment
//
// Values are integers and strings in double quotes, where a backslash protects a quote or a
// backslash. A name is what lies between white space and punctuation; it may be all digits.
const (
	maxLVMDepth  = 8       // LVM nests five sections: group, logical_volumes, volume, segment, and a spare
	maxLVMTokens = 1 << 20 // of one text: about 15,000 logical volumes; some 100 bytes of memory each
)

// lvmSection is a parsed section.
type lvmSection struct {
	name   string
	values map[string][]lvmValue
	sub    []*lvmSection // as written
}

// lvmValue is one value; text is a string's content or a number's digits.
type lvmValue struct {
	text   string
	quoted bool
}

// parseLVMText parses a text into its unnamed outermost section. Errors wrap fsys.ErrCorrupt,
// or ondisk.ErrBudget where it has more tokens than budget allows.
func parseLVMText(text string, budget *ondisk.Budget) (*lvmSection, error) {
	p := &lvmParser{text: strings.TrimRight(text, "\x00"), budget: budget}
	root := &lvmSection{}
	stack := []*lvmSection{root}
	for {
		name, err := p.next()
		if err != nil {
			return nil, err
		}
		top := stack[len(stack)-1]
		switch {
		case name.kind == lvmEnd && len(stack) == 1:
			return root, nil
		case name.kind == '}' && len(stack) > 1:
			stack = stack[:len(stack)-1]
			continue
		case name.kind != lvmWord:
			return nil, p.bad("a name is expected")
		}
		switch t, err := p.next(); {
		case err != nil:
			return nil, err
		case t.kind == '{':
			if len(stack) > maxLVMDepth {
				return nil, p.bad("sections are nested more than %d deep", maxLVMDepth)
			}
			s := &lvmSection{name: name.text}
			top.sub = append(top.sub, s)
			stack = append(stack, s)
		case t.kind == '=':
			if _, twice := top.values[name.text]; twice {
				return nil, p.bad("%.40q is given twice", name.text)
			}
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			if top.values == nil {
				top.values = make(map[string][]lvmValue)
			}
			top.values[name.text] = v
		default:
			return nil, p.bad("a value or a section is expected after %.40q", name.text)
		}
	}
}

// Kinds of tokens; punctuation is its own kind.
const (
	lvmEnd    = 0
	lvmWord   = 'w'
	lvmString = 's'
)

type lvmToken struct {
	kind byte
	text string
}

type lvmParser struct {
	text   string
	at     int
	budget *ondisk.Budget
}

func (p *lvmParser) bad(format string, args ...any) error {
	return fsys.Corrupt("lvm2", "metadata text", 0, int64(p.at), format, args...)
}

const lvmPunctuation = "{}[]=,"

// next returns the next token.
func (p *lvmParser) next() (lvmToken, error) {
	if err := p.budget.Spend(1); err != nil {
		return lvmToken{}, err
	}
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			p.at++
		case c == '#':
			end := strings.IndexByte(p.text[p.at:], '\n')
			if end < 0 {
				end = len(p.text) - p.at
			}
			p.at += end
		case strings.IndexByte(lvmPunctuation, c) >= 0:
			p.at++
			return lvmToken{kind: c}, nil
		case c == '"':
			return p.quoted()
		case c < ' ' || c == 0x7f:
			return lvmToken{}, p.bad("a control character %#x", c)
		default:
			start := p.at
			for p.at < len(p.text) && p.text[p.at] > ' ' && strings.IndexByte(lvmPunctuation+`"#`, p.text[p.at]) < 0 {
				p.at++
			}
			return lvmToken{lvmWord, p.text[start:p.at]}, nil
		}
	}
	return lvmToken{kind: lvmEnd}, nil
}

// quoted reads a string.
func (p *lvmParser) quoted() (lvmToken, error) {
	start, escaped := p.at+1, false
	for i := start; i < len(p.text); i++ {
		switch p.text[i] {
		case '\\':
			i++
			escaped = true
		case '"':
			s := p.text[start:i]
			p.at = i + 1
			if escaped {
				s = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s)
			}
			return lvmToken{lvmString, s}, nil
		}
	}
	return lvmToken{}, p.bad("a string has no end")
}

// value reads one value or a list of them.
func (p *lvmParser) value() ([]lvmValue, error) {
	t, err := p.next()
	if err != nil {
		return nil, err
	}
	if t.kind != '[' {
		v, err := p.single(t)
		return []lvmValue{v}, err
	}
	list := []lvmValue{}
	for {
		if t, err = p.next(); err != nil {
			return nil, err
		}
		if t.kind == ']' {
			return list, nil
		}
		if len(list) > 0 {
			if t.kind != ',' {
				return nil, p.bad("a list lacks a comma")
			}
			if t, err = p.next(); err != nil {
				return nil, err
			}
		}
		v, err := p.single(t)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func (p *lvmParser) single(t lvmToken) (lvmValue, error) {
	if t.kind != lvmWord && t.kind != lvmString {
		return lvmValue{}, p.bad("a value is expected")
	}
	return lvmValue{t.text, t.kind == lvmString}, nil
}

// section returns the subsection of that name, an empty one where there is none.
func (s *lvmSection) section(name string) *lvmSection {
	for _, c := range s.sub {
		if c.name == name {
			return c
		}
	}
	return &lvmSection{name: name}
}

// str returns a copy of a string value, empty where there is none of that kind. What is kept
// of a text is copied, so that the text itself can go.
func (s *lvmSection) str(key string) string {
	if v := s.values[key]; len(v) == 1 && v[0].quoted {
		return strings.Clone(v[0].text)
	}
	return ""
}

// num returns an unsigned value, and false where there is none.
func (s *lvmSection) num(key string) (uint64, bool) {
	if v := s.values[key]; len(v) == 1 {
		return v[0].num()
	}
	return 0, false
}

func (v lvmValue) num() (uint64, bool) {
	n, err := strconv.ParseUint(v.text, 10, 64)
	return n, err == nil && !v.quoted
}

// flags returns the strings of a list.
func (s *lvmSection) flags(key string) []string {
	var out []string
	for _, v := range s.values[key] {
		out = append(out, v.text)
	}
	return out
}
