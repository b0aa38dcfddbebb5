package supervisor

import (
	"fmt"
	"os"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// frontPart is the name of the front's part; a backup's is the backup's, which is not empty.
const frontPart = ""

// part is what one holder brought. It belongs to its session, whose lock guards the fields below mu.
type part struct {
	sess  *sess
	name  string
	who   Identity
	disks []session.Disk
	ears  session.Listeners
	files []*os.File // as in a Hello

	// Guarded by sess.mu.
	credentials session.Credentials
	version     int         // of the credentials
	peer        *peer       // nil: the connection was lost
	lost        *time.Timer // runs while peer is nil
	leaving     string      // why it is being closed; empty: it is not
	same        *part       // the part that was there already, with the same files
}

// newPart checks what came with a Hello against the session's document and takes the files over.
func newPart(doc *api.Session, h *session.Hello, files []*os.File, who Identity) (*part, error) {
	p := &part{name: h.Part.Backup, who: who, disks: h.Part.Disks, ears: h.Listeners, credentials: h.Credentials}
	if p.name == frontPart {
		if p.ears.SSH != (doc.SSH != nil) || p.ears.HTTPS != (doc.Browser != nil) {
			return nil, fmt.Errorf("%w: the listeners are not those that the session's document asks for", session.ErrProtocol)
		}
		for _, f := range files {
			if err := session.CheckListener(f); err != nil {
				return nil, err
			}
		}
		p.files = files
		return p, nil
	}
	backup := findBackup(doc, p.name)
	if backup == nil || len(backup.Disks) != len(p.disks) {
		return nil, fmt.Errorf("%w: the session's document has no backup %.80q with %d disks", session.ErrProtocol, p.name, len(p.disks))
	}
	next := 0
	for i, d := range p.disks {
		if d.Error != "" {
			continue
		}
		if err := session.CheckDisk(files[next], backup.Disks[i].Mode); err != nil {
			return nil, fmt.Errorf("disk %s: %w", backup.Disks[i].Name, err)
		}
		next++
	}
	p.files = files
	return p, nil
}

func findBackup(doc *api.Session, name string) *api.Backup {
	for i := range doc.Backups {
		if doc.Backups[i].Name == name {
			return &doc.Backups[i]
		}
	}
	return nil
}

// sameFiles tells whether o was made of the same disks and sockets, as they come from a holder
// that only connected again.
func (p *part) sameFiles(o *part) bool {
	if len(p.files) != len(o.files) || p.ears != o.ears || !reflect.DeepEqual(p.disks, o.disks) {
		return false
	}
	for i := range p.files {
		a, aok := fileID(p.files[i])
		b, bok := fileID(o.files[i])
		if !aok || !bok || a != b {
			return false
		}
	}
	return true
}

// fileID is what tells files apart; a socket's inode is its own.
func fileID(f *os.File) (id [4]uint64, ok bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return id, false
	}
	_ = raw.Control(func(fd uintptr) {
		var st unix.Statx_t
		if unix.Statx(int(fd), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE, &st) == nil {
			dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
			id, ok = [4]uint64{dev, st.Ino, unix.Mkdev(st.Rdev_major, st.Rdev_minor), uint64(st.Mode & unix.S_IFMT)}, true
		}
	})
	return id, ok
}

// closeFiles closes what the part holds, gives its share back and tells the holder. Storage that does not
// answer holds up nobody but the holder, and not the session's lock, with which it is called.
func (p *part) closeFiles() {
	files, to, why := p.files, p.peer, p.leaving
	p.files, p.peer = nil, nil
	done := session.CloseFiles(files)
	end := func() {
		p.sess.sup.release(p.sess.namespace, len(files))
		if to != nil {
			to.send(&session.Message{Closed: &session.Closed{Reason: why}})
		}
	}
	select {
	case <-done:
		end()
	default:
		p.sess.log.Error("a part's storage does not let go of it", "part", session.Part{Backup: p.name}.Name())
		go func() { <-done; end() }()
	}
}
