package main

import (
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// maxNamed bounds the unreadable objects that a report names; all are counted.
const maxNamed = 1000

// walkReport is the result of reading everything.
type walkReport struct {
	FileSystems int64 `json:"fileSystems"`
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Links       int64 `json:"links"`  // symbolic
	Others      int64 `json:"others"` // device nodes, FIFOs, sockets
	// HardLinks are further names of files that are counted, and read, once.
	HardLinks  int64        `json:"hardLinks"`
	Bytes      int64        `json:"bytes"` // length of all files, holes included
	Holes      int64        `json:"holes"` // of that, bytes in holes
	Unreadable int64        `json:"unreadable"`
	Errors     []unreadable `json:"errors,omitempty"` // the first 1000
	// SHA256 is the digest of the listing (see listing.go); the same for the same content,
	// whatever the image format.
	SHA256 string `json:"sha256"`
}

// unreadable is something that could not be read.
type unreadable struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // tree.Kind
	Reason string `json:"reason"`
}

// add counts one object and names it if it could not be read.
func (r *walkReport) add(o *object) {
	err := o.err
	if o.same != nil {
		r.HardLinks++
		err = nil // named under its first name
	} else {
		switch o.attr.Mode & fsys.ModeFmt {
		case 0:
		case fsys.ModeDir:
			r.Directories++
		case fsys.ModeRegular:
			r.Files++
			r.Bytes += o.attr.Size
			r.Holes += o.holes
		case fsys.ModeSymlink:
			r.Links++
		default:
			r.Others++
		}
	}
	if err != nil {
		r.fail("/backups/"+o.path, tree.KindOf(err).String(), err.Error())
	}
}

func (r *walkReport) fail(path, kind, reason string) {
	r.Unreadable++
	if len(r.Errors) < maxNamed {
		r.Errors = append(r.Errors, unreadable{path, kind, reason})
	}
}

// failDisks adds the disks and volumes that no file system could be shown of.
func (r *walkReport) failDisks(backups []tree.BackupReport) {
	for _, b := range backups {
		for _, d := range b.Disks {
			if d.Error != "" {
				r.fail(d.Path, string(d.State), d.Error)
				continue
			}
			if d.State == tree.StatePending && b.Fallback != nil && b.Fallback.Error != "" {
				r.fail(d.Path, string(d.State), b.Fallback.Engine+": "+b.Fallback.Error)
			}
			for _, v := range d.Volumes {
				if v.Error != "" {
					r.fail(d.Path, "volume "+v.Name, v.Error)
				}
			}
		}
	}
}
