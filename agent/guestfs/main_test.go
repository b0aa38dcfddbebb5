package guestfs

import (
	"fmt"
	"os"
	"testing"
	"time"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/guestfs/wire"
)

// realHelper is the helper in builds that have it.
var realHelper func() error

// TestMain lets the test's program be the helper, too: the real one, or one that misbehaves.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "appliance" {
		if err := realHelper(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "fake" {
		fake(os.Args[2])
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "owner" {
		own(os.Args[2])
	}
	os.Exit(m.Run())
}

// fake is a helper that starts no appliance and answers as kind says.
func fake(kind string) {
	sock := os.NewFile(sandbox.Socket, "engine")
	conn := wire.NewConn(sock)
	one := wire.Volume{Device: "/dev/sda", Disk: 0, Type: "ext4"}
	attr := wire.Attr{Dev: 1, Ino: 2, Mode: 0o40755, Nlink: 2}
	file := wire.Attr{Dev: 1, Ino: 12, Mode: 0o100644, Nlink: 1, Size: 100}
	dot := wire.Entry{Name: []byte("."), Attr: &attr}
	for {
		var r wire.Request
		if _, err := conn.Receive(&r); err != nil {
			return
		}
		reply := wire.Reply{ID: r.ID}
		var payload []byte
		switch r.Op {
		case wire.Probe: // no KVM
		case wire.Start:
			switch kind {
			case "hang":
				time.Sleep(time.Hour)
			case "exit":
				fmt.Fprintln(os.Stderr, "qemu is not installed")
				os.Exit(1)
			case "garbage":
				_, _ = sock.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00{x]}"))
				time.Sleep(time.Hour)
			case "huge":
				_, _ = sock.Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
				time.Sleep(time.Hour)
			case "stranger":
				reply.ID += 1000
			}
		case wire.Scan:
			reply.Volumes = []wire.Volume{one}
			switch kind {
			case "disk 99":
				reply.Volumes[0].Disk = 99
			case "many volumes":
				for len(reply.Volumes) <= wire.MaxFilesystems {
					reply.Volumes = append(reply.Volumes, one)
				}
			}
		case wire.Mount:
			reply.Mounted = &wire.Mounted{Root: attr, BlockSize: 4096, Blocks: 1 << 60}
			if kind == "no root" {
				reply.Mounted.Root.Mode = 0o100644
			}
		case wire.Stat, wire.ReadD:
			reply.Entries = []wire.Entry{dot, {Name: []byte("file"), Attr: &file}}
			switch {
			case r.Op == wire.Stat && len(r.Names) == 1:
				reply.Entries = reply.Entries[:1]
			case kind == "slash":
				reply.Entries[1].Name = []byte("../file")
			case kind == "twice":
				reply.Entries = append(reply.Entries, reply.Entries[1])
			case kind == "negative size":
				file.Size = -1
			case kind == "loop":
				file = attr
			case kind == "no dot":
				reply.Entries = reply.Entries[1:]
			}
		case wire.Read:
			payload = make([]byte, r.Count)
			switch kind {
			case "short":
				payload = payload[:1]
			case "die":
				os.Exit(3)
			case "disk error":
				reply.Err, payload = &wire.Error{Errno: 5, Message: "pread: Input/output error"}, nil
			}
		case wire.Xattrs:
			reply.Entries = []wire.Entry{{Name: []byte("."), Xattrs: []wire.Xattr{{Name: "user.x", Value: make([]byte, 100<<10)}}}}
		}
		if conn.Send(&reply, payload) != nil {
			return
		}
	}
}
