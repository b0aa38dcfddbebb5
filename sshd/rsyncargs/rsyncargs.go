// Package rsyncargs decides which command lines of rsync may run. It is pure: the SSH server
// asks it before it accepts a command, and the jail asks it again before it starts a program.
//
// A client makes these lines itself (server_options in rsync's options.c):
//
//	rsync --server --sender -logDtpre.iLsfxCIvu [--long[=value]]... . path...
//
// Only options that make a sender read differently are allowed, by name; the result is a new
// command line made from what was understood, so that rsync's parser (popt) never sees anything
// that this one read in another way. Options for the receiver, which old clients send along,
// are left out. Non-goal: the correctness of values beyond their characters, which is rsync's.
package rsyncargs

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

const (
	// MaxArgs and MaxBytes bound a command line: in words, and in bytes with one after each word.
	MaxArgs = 4200 // shellwords.MaxWords paths and the options
	// MaxBytes see MaxArgs.
	MaxBytes = 128 << 10
)

// Tops are the objects at the tree's root that rsync can send.
var Tops = []string{"/backups", "/restores", "/README.txt", "/METADATA.json"}

// ErrSecluded tells that the arguments come by standard input (-s, --secluded-args), each ended by
// a zero byte, and the list by an empty one.
var ErrSecluded = errors.New("rsync: the arguments come by standard input")

// Command is an accepted command line.
type Command struct {
	options []string
	// Paths are the sources as the client wrote them, with ~ and quotes replaced.
	Paths []string
}

// shortOptions are the letters without a value in a cluster such as -logDtpr. What only
// matters to a receiver is among them: rsync sends it along.
const shortOptions = "vqnlLkKWHogDtUNpEAXrcCIRxSzdymuObJ"

// shortValues are the letters that take the rest of the cluster as their value.
var shortValues = map[byte]*regexp.Regexp{
	'e': regexp.MustCompile(`^[0-9]{0,3}\.[0-9]{0,3}[A-Za-z]*$`), // the client's abilities
	'B': number, '@': number,
}

var (
	number   = regexp.MustCompile(`^-?[0-9]{1,12}$`)
	size     = regexp.MustCompile(`^[0-9]{1,15}(\.[0-9]{1,6})?[A-Za-z]{0,3}([+-]1)?$`)
	word     = regexp.MustCompile(`^[A-Za-z0-9_.,:+-]{0,200}$`)
	list     = regexp.MustCompile(`^[A-Za-z0-9_.,/*?\[\]-]*$`)
	anything = regexp.MustCompile(`^`)
)

// option is what becomes of a long option.
type option struct {
	value *regexp.Regexp // nil: it takes none
	drop  bool           // accepted for the client's sake, and left out: it means nothing to a sender
}

var longOptions = map[string]option{
	"verbose": {}, "quiet": {}, "checksum": {}, "recursive": {}, "relative": {}, "no-relative": {}, "no-implied-dirs": {},
	"dirs": {}, "no-dirs": {}, "old-dirs": {}, "links": {}, "copy-links": {}, "copy-unsafe-links": {}, "safe-links": {},
	"copy-dirlinks": {}, "hard-links": {}, "perms": {}, "acls": {}, "xattrs": {}, "owner": {}, "group": {}, "devices": {},
	"specials": {}, "no-devices": {}, "no-specials": {}, "times": {}, "atimes": {}, "crtimes": {}, "sparse": {},
	"dry-run": {}, "whole-file": {}, "no-whole-file": {}, "one-file-system": {}, "numeric-ids": {}, "compress": {},
	"old-compress": {}, "new-compress": {}, "cvs-exclude": {}, "prune-empty-dirs": {}, "from0": {}, "list-only": {},
	"append": {}, "inplace": {}, "partial": {}, "ignore-times": {}, "size-only": {}, "ignore-missing-args": {}, "no-r": {},
	"ignore-errors": {}, "stats": {}, "msgs2stderr": {}, "no-msgs2stderr": {}, "inc-recursive": {}, "no-inc-recursive": {},
	"no-i-r": {}, "use-qsort": {},

	"bwlimit": {value: size}, "timeout": {value: number}, "block-size": {value: number}, "protocol": {value: number},
	"checksum-choice": {value: word}, "cc": {value: word}, "checksum-seed": {value: number}, "compress-choice": {value: word},
	"zc": {value: word}, "compress-level": {value: number}, "zl": {value: number}, "skip-compress": {value: list},
	"max-size": {value: size}, "min-size": {value: size}, "modify-window": {value: number}, "info": {value: word}, "debug": {value: word},
	"stop-after": {value: number}, "stderr": {value: word},

	"delete": {drop: true}, "delete-before": {drop: true}, "delete-during": {drop: true}, "delete-delay": {drop: true},
	"delete-after": {drop: true}, "delete-excluded": {drop: true}, "force": {drop: true}, "existing": {drop: true},
	"ignore-existing": {drop: true}, "ignore-non-existing": {drop: true}, "fuzzy": {drop: true}, "preallocate": {drop: true},
	"delay-updates": {drop: true}, "omit-dir-times": {drop: true}, "omit-link-times": {drop: true}, "executability": {drop: true},
	"open-noatime": {drop: true}, // needs a capability, and nothing here records access
	"mkpath":       {drop: true}, "fsync": {drop: true}, "super": {drop: true}, "trust-sender": {drop: true},
	"max-alloc":  {value: size, drop: true}, // the jail has its own limit
	"max-delete": {value: number, drop: true}, "backup-dir": {value: anything, drop: true}, "suffix": {value: anything, drop: true},
	"partial-dir": {value: anything, drop: true}, "link-dest": {value: anything, drop: true}, "copy-dest": {value: anything, drop: true},
	"compare-dest": {value: anything, drop: true}, "log-format": {value: anything, drop: true}, "out-format": {value: anything, drop: true},
	"usermap": {value: anything, drop: true}, "groupmap": {value: anything, drop: true}, "compress-threads": {value: number, drop: true},
	"zt": {value: number, drop: true},
}

// separate are the options whose value rsync sends as an argument of its own.
var separate = map[string]bool{"backup-dir": true, "suffix": true, "partial-dir": true, "link-dest": true, "copy-dest": true, "compare-dest": true}

// reasons explain refusals that people will meet.
var reasons = map[string]string{
	"daemon":              "this is no rsync daemon; use host:/path with one colon",
	"remove-source-files": "backups are read-only", "remove-sent-files": "backups are read-only", "delete-missing-args": "backups are read-only",
	"log-file": "no file can be written here; use --log-file without -M", "write-batch": "no file can be written here", "only-write-batch": "no file can be written here",
	"read-batch": "no file of this machine can be read", "temp-dir": "no file can be written here", "fake-super": "backups are read-only",
	"copy-devices": "device nodes have no content in a backup", "write-devices": "device nodes have no content in a backup",
	"iconv":      "names are sent as they are; convert them afterwards, for example with convmv",
	"files-from": "give the list on your side (--files-from=FILE, without a colon)",
}

// parser is the state of one command line.
type parser struct {
	args            []string
	server, sender  bool
	secluded, ended bool
	out             Command
}

// Parse checks the words of a command, the first being the program's name. If they ask for
// secluded arguments, the error is ErrSecluded, and ParseSecluded takes what came by standard
// input. Other errors are one line for the user.
func Parse(words []string) (Command, error) {
	p := parser{}
	if err := p.parse(words); err != nil {
		return Command{}, err
	}
	if p.secluded {
		if p.ended {
			return Command{}, refuse("-s", "paths come by standard input then")
		}
		return Command{}, ErrSecluded
	}
	return p.finish()
}

// ParseSecluded checks a command whose further arguments came by standard input; their first is
// the program's name again.
func ParseSecluded(words, more []string) (Command, error) {
	if len(more) == 0 || more[0] != "rsync" {
		return Command{}, errors.New("rsync: the arguments on standard input do not begin with rsync")
	}
	p := parser{}
	if err := p.parse(append(words[:len(words):len(words)], more[1:]...)); err != nil {
		return Command{}, err
	}
	return p.finish()
}

func (p *parser) parse(words []string) error {
	if len(words) == 0 || words[0] != "rsync" && words[0] != "/usr/bin/rsync" {
		return errors.New("rsync: the program must be called rsync; leave out --rsync-path")
	}
	bytes := 0
	for _, w := range words {
		bytes += len(w) + 1
		if strings.IndexByte(w, 0) >= 0 {
			return errors.New("rsync: an argument holds a zero byte")
		}
	}
	if len(words) > MaxArgs || bytes > MaxBytes {
		return errors.New("rsync: too many arguments; name the folder instead, or use --files-from")
	}
	for p.args = words[1:]; len(p.args) > 0; {
		a := p.args[0]
		p.args = p.args[1:]
		switch {
		case p.ended:
			if strings.HasPrefix(a, "-") {
				return refuse(a, "it stands after the options; write ./"+printable(a)+" for a name")
			}
			p.out.Paths = append(p.out.Paths, a)
		case a == ".":
			p.ended = true
		case strings.HasPrefix(a, "--"):
			if err := p.long(a); err != nil {
				return err
			}
		case strings.HasPrefix(a, "-") && a != "-":
			if err := p.cluster(a[1:]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("rsync: the argument %q is not expected before \".\"", a)
		}
	}
	if !p.server || !p.sender {
		return errors.New("rsync: only reading is possible (rsync --server --sender, as a client sends it for host:/path as the source)")
	}
	return nil
}

// cluster checks letters such as logDtpre.LsfxCIvu.
func (p *parser) cluster(s string) error {
	var letters []byte
	for i := range len(s) {
		c := s[i]
		valid, takes := shortValues[c]
		switch {
		case takes && !valid.MatchString(s[i+1:]):
			return refuse("-"+s[i:], "its value is not one that a client sends")
		case takes:
			p.out.options = append(p.out.options, "-"+string(letters)+s[i:])
			return nil
		case c == 's':
			p.secluded = true // and not handed on: the jailed rsync gets all by its command line
		case strings.IndexByte(shortOptions, c) < 0:
			return refuse("-"+string(rune(c)), "")
		default:
			letters = append(letters, c)
		}
	}
	if len(letters) > 0 {
		p.out.options = append(p.out.options, "-"+string(letters))
	}
	return nil
}

// long checks --name, --name=value and, where rsync sends it so, --name value.
func (p *parser) long(a string) error {
	name, value, has := strings.Cut(a[2:], "=")
	switch name {
	case "server", "sender":
		if has {
			return refuse("--"+name, "it takes no value")
		}
		p.server = p.server || name == "server"
		p.sender = p.sender || name == "sender"
		return nil
	case "secluded-args", "protect-args":
		p.secluded = true
		return nil
	case "no-secluded-args", "no-protect-args", "no-s", "old-args":
		return nil
	case "files-from":
		if !has && len(p.args) > 0 {
			value, p.args = p.args[0], p.args[1:]
		}
		if value != "-" {
			return refuse("--files-from", reasons["files-from"])
		}
		p.out.options = append(p.out.options, "--files-from=-")
		return nil
	}
	o, ok := longOptions[name]
	switch {
	case !ok:
		return refuse("--"+name, reasons[name])
	case o.value == nil && has:
		return refuse("--"+name, "it takes no value")
	case o.value != nil && !has:
		if !separate[name] || len(p.args) == 0 {
			return refuse("--"+name, "its value must follow after =")
		}
		p.args = p.args[1:]
	case o.value != nil && !o.value.MatchString(value):
		return refuse("--"+name, "its value has characters that do not belong there")
	}
	if !o.drop {
		p.out.options = append(p.out.options, a)
	}
	return nil
}

// finish checks the paths.
func (p *parser) finish() (Command, error) {
	if len(p.out.Paths) == 0 {
		return Command{}, errors.New("rsync: no path is given; name a folder or file below /backups or /restores")
	}
	return p.out.With(p.out.Paths)
}

// With is the same command for other paths, such as those that patterns stand for. The root, which
// also holds the program itself in the jail, is replaced by what the tree has there.
func (c Command) With(paths []string) (Command, error) {
	out := Command{options: c.options}
	for _, p := range paths {
		clean := path.Clean("/" + p)
		switch {
		case clean == "/":
			out.Paths = append(out.Paths, Tops...)
			continue
		case !inTree(clean):
			return Command{}, fmt.Errorf("rsync: %q is not there; rsync sends what is below /backups and /restores (whole disks under /disks: by sftp or HTTPS)", p)
		case strings.HasPrefix(p, "-"):
			return Command{}, refuse(p, "")
		}
		out.Paths = append(out.Paths, p)
	}
	if len(out.Paths) > MaxArgs {
		return Command{}, errors.New("rsync: too many paths; name the folder instead")
	}
	return out, nil
}

func inTree(clean string) bool {
	for _, t := range Tops {
		if clean == t || strings.HasPrefix(clean, t+"/") {
			return true
		}
	}
	return false
}

// Args is the command line to run, with the program's name; Parse accepts it and gives the same.
func (c Command) Args() []string {
	args := append([]string{"rsync", "--server", "--sender"}, c.options...)
	return append(append(args, "."), c.Paths...)
}

// refuse names an option and says why it is refused.
func refuse(option, why string) error {
	if why == "" {
		why = "only options that change how files are read are"
	}
	return fmt.Errorf("rsync: the option %s is not allowed: %s", printable(option), why)
}

// printable is s on one line, cut to a sensible length.
func printable(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strings.Trim(fmt.Sprintf("%q", s), `"`)
}
