package engine

import (
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/fsys/fat"
	"vmfr/agent/fsys/ntfs"
	"vmfr/agent/fsys/xfs"
	"vmfr/agent/volume"
)

// Native returns the engines that run in this process, with their default options, in the
// order in which they are asked.
func Native() []Engine {
	return []Engine{
		native("ext4", ext4.Open, ext4.Options{}),
		native("xfs", xfs.Open, xfs.Options{}),
		native("ntfs", ntfs.Open, ntfs.Options{}),
		native("fat", fat.Open, fat.Options{}),
	}
}

// native makes an Engine of a package's Open with its options.
func native[F fsys.FS, O any](name string, open func(extent.Reader, O) (F, error), options O) Engine {
	return nativeEngine{name, func(r extent.Reader) (fsys.FS, error) {
		f, err := open(r, options)
		if err != nil {
			return nil, err // not f: a nil *ext4.FS in an interface is not nil
		}
		return f, nil
	}}
}

type nativeEngine struct {
	name string
	open func(extent.Reader) (fsys.FS, error)
}

var _ Engine = nativeEngine{}

func (e nativeEngine) Name() string { return e.name }

func (e nativeEngine) Open(v volume.Volume) (fsys.FS, error) { return e.open(v) }
