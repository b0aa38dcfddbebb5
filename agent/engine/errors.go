package engine

import (
	"errors"
	"fmt"
	"strings"

	"vmfr/agent/fsys"
)

// PanicError is a panic of an engine: a defect of this program, which the volume's bytes
// provoked. Whoever keeps metrics finds it by errors.As and counts it.
type PanicError struct {
	Engine string
	Value  any
	Stack  []byte // of the panicking goroutine; for logs, not for users
}

// Error does not show the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("the %s engine stopped on this volume, which is a defect of this program; please report it: %v", e.Engine, e.Value)
}

// UnsupportedError tells that no engine reads a volume. It wraps fsys.ErrUnsupported and every
// specific reason; where nobody had one, it wraps fsys.ErrNotRecognized.
type UnsupportedError struct {
	Signature Signature
	// Reasons are the refusals of the engines that recognized the format, each with the
	// engine's name before it. Engines of other formats have none.
	Reasons []error
}

// Error says what the volume holds, why it is not read and what can be done.
func (e *UnsupportedError) Error() string {
	if len(e.Reasons) > 0 {
		reasons := make([]string, len(e.Reasons))
		for i, r := range e.Reasons {
			reasons[i] = r.Error()
		}
		return e.what() + ", which this build recognizes but cannot read: " + strings.Join(reasons, "; ") + "; " + useRaw
	}
	switch e.Signature.Kind {
	case KindEmpty:
		return "this volume is empty: it starts with zeros where any file system has its signature"
	case KindSwap:
		return "this volume is swap space: it holds no files"
	case KindContainer:
		return e.what() + ", which this build does not open yet; " + useRaw
	case KindFilesystem:
		return e.what() + ", which this build does not read yet; " + useRaw
	}
	if e.Signature.Err != nil {
		return "this volume cannot be read: " + e.Signature.Err.Error()
	}
	return "this volume holds nothing that this build recognizes; " + useRaw
}

const useRaw = "its bytes are in the raw disk for other tools"

// what names the format, with the label, if any, quoted: it is the guest's.
func (e *UnsupportedError) what() string {
	s := "this volume"
	switch {
	case e.Signature.Type == "":
		s += " holds a format"
	case e.Signature.Kind == KindContainer:
		s += " is a container of type " + e.Signature.Type
	default:
		s += " is " + e.Signature.Type
	}
	if e.Signature.Label != "" {
		s += fmt.Sprintf(" (label %q)", e.Signature.Label)
	}
	return s
}

// Unwrap lists the reasons, fsys.ErrUnsupported or fsys.ErrNotRecognized, and an I/O error.
func (e *UnsupportedError) Unwrap() []error {
	all := append([]error{}, e.Reasons...)
	if len(all) == 0 {
		all = append(all, fsys.ErrNotRecognized)
	}
	if e.Signature.Err != nil {
		all = append(all, e.Signature.Err)
	}
	return all
}

var _ error = (*UnsupportedError)(nil)
var _ error = (*PanicError)(nil)

// IsPanic tells whether err is an engine's panic, and returns it.
func IsPanic(err error) (*PanicError, bool) {
	var p *PanicError
	ok := errors.As(err, &p)
	return p, ok
}
