// Package engine chooses who reads a volume: an ordered list of engines and the rule for
// going to the next one.
//
// Non-goals: it knows no format and keeps nothing open. Invariants: the next engine is asked
// only where one declares the volume unsupported, never where it found damage, because a
// second opinion on damaged metadata is a guess; a panic of an engine is an error of that
// volume alone.
package engine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/probe"
	"vmfr/agent/volume"
)

// Engine opens one or more file system formats.
type Engine interface {
	// Name is the engine's name for a person: "ext4".
	Name() string
	// Open returns the volume's file system. An error that wraps fsys.ErrUnsupported lets
	// the next engine try; fsys.ErrNotRecognized says that it is another format altogether.
	Open(v volume.Volume) (fsys.FS, error)
}

// Opened is a file system and the engine that reads it. Optional features (fsys.Xattrer) are
// those of the field FS; the embedding does not show them.
type Opened struct {
	fsys.FS
	Engine string
}

// Signature is what a volume holds by its first bytes.
type Signature = probe.Signature

// Kind is what a Signature stands for.
type Kind = probe.Kind

// The kinds of a Signature.
const (
	KindUnknown    = probe.KindUnknown
	KindEmpty      = probe.KindEmpty
	KindFilesystem = probe.KindFilesystem
	KindContainer  = probe.KindContainer
	KindSwap       = probe.KindSwap
)

// Identify tells what r holds without opening it.
func Identify(r extent.Reader) Signature { return probe.Identify(r) }

// Open asks the engines in order. Errors: an UnsupportedError (fsys.ErrUnsupported) where no
// engine reads the volume; fsys.ErrCorrupt, a PanicError or an I/O error as the engine that
// recognized the volume returned it, with the engine's name before it.
func Open(v volume.Volume, engines []Engine) (Opened, error) {
	refused := &UnsupportedError{}
	for _, e := range engines {
		f, err := open(e, v)
		if err == nil {
			return Opened{FS: f, Engine: e.Name()}, nil
		}
		err = named(e, err)
		if !errors.Is(err, fsys.ErrUnsupported) || errors.Is(err, fsys.ErrCorrupt) {
			return Opened{}, err
		}
		if !errors.Is(err, fsys.ErrNotRecognized) {
			refused.Reasons = append(refused.Reasons, err)
		}
	}
	refused.Signature = Identify(v)
	return Opened{}, refused
}

// named puts the engine's name before an error that does not start with it already.
func named(e Engine, err error) error {
	if strings.HasPrefix(err.Error(), e.Name()+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", e.Name(), err)
}

// open is one engine's attempt, with the last net below it.
func open(e Engine, v volume.Volume) (f fsys.FS, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, &PanicError{Engine: e.Name(), Value: p, Stack: debug.Stack()}
		}
	}()
	f, err = e.Open(v)
	if err == nil && f == nil {
		err = errors.New("the engine returned neither a file system nor an error")
	}
	return f, err
}
