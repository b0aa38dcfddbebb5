package engine

import (
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/volume"
)

// Native returns the engines that run in this process, with their default options, in the
// order in which they are asked.
func Native() []Engine {
	return []Engine{Ext4(ext4.Options{})}
}

// Ext4 returns the engine for ext2, ext3 and ext4.
func Ext4(o ext4.Options) Engine { return ext4Engine{o} }

type ext4Engine struct{ options ext4.Options }

var _ Engine = ext4Engine{}

func (ext4Engine) Name() string { return "ext4" }

func (e ext4Engine) Open(v volume.Volume) (fsys.FS, error) {
	f, err := ext4.Open(v, e.options)
	if err != nil {
		return nil, err // not f: a nil *ext4.FS in an interface is not nil
	}
	return f, nil
}
