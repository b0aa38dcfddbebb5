package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// The metadata files that describe the volume.
const (
	logRecord    = 2 // $LogFile
	volumeRecord = 3 // $Volume
	bitmapRecord = 6 // $Bitmap
)

// volume is what $Volume and $LogFile tell, and whether Windows is asleep.
type volume struct {
	label   string
	dirty   bool
	journal string
}

const volumeDirty = 1 // flag of $VOLUME_INFORMATION

// Restart pages of $LogFile: "RSTR", 0x10 page size (4), 0x18 offset of the restart area (2), which
// has 0x0C the list of clients in use (2), 0x0E flags (2).
const (
	restartMagic = "RSTR"
	noClient     = 0xFFFF
	restartClean = 2
)

const inUse = "it was in use, or Windows was only shut down to its fast start: what the guest had not yet written is missing, and files that were being changed can be incomplete"

// readVolume fills f.volume and adds to f.notes; what cannot be read is a note, too. The error is
// fsys.ErrUnsupported for an unknown version of the format.
func (f *FS) readVolume() error {
	v := &f.volume
	if err := f.readInformation(v); errors.Is(err, fsys.ErrUnsupported) {
		return err
	} else if err != nil {
		f.notes = append(f.notes, fmt.Sprintf("the volume's label and state cannot be read: %v", err))
	}
	clean, err := f.logClean()
	switch {
	case err != nil:
		v.journal = "unknown: it cannot be read"
		f.notes = append(f.notes, fmt.Sprintf("whether the volume was cleanly unmounted cannot be told: %v", err))
	case !clean:
		v.journal = "not replayed: the volume was not cleanly unmounted"
	case v.dirty:
		v.journal = "clean, but the volume is marked for a check"
	default:
		v.journal = "clean"
	}
	if err == nil && !clean {
		f.notes = append(f.notes, "the volume was not cleanly unmounted, and its log ($LogFile) is not replayed: "+inUse)
	}
	if v.dirty {
		f.notes = append(f.notes, "the volume is marked as dirty: Windows will check it (chkdsk) when it starts next")
	}
	if f.hibernated() {
		v.journal = "not replayed: Windows is hibernated on this volume"
		f.notes = append(f.notes, "Windows is hibernated on this volume (hiberfil.sys): what it holds in memory is not on the disk, and files can be older than the guest shows them")
	}
	return nil
}

func (f *FS) readInformation(v *volume) error {
	n, err := f.object(volumeRecord)
	if err != nil {
		return err
	}
	label, err := n.resident(typeVolumeName)
	if err != nil {
		return err
	}
	v.label = decodeName(label)
	b, err := n.resident(typeVolumeInfo)
	if err != nil {
		return err
	}
	if len(b) < 12 {
		return fsys.Corrupt("ntfs", "$Volume", volumeRecord, -1, "volume information of %d bytes", len(b))
	}
	// 1.x of NT, 3.0 of 2000, 3.1 since XP: there has been no other in 25 years.
	if major, minor := b[8], b[9]; major != 1 && (major != 3 || minor > 1) {
		return fmt.Errorf("ntfs: %w: version %d.%d of the format", fsys.ErrUnsupported, major, minor)
	}
	v.dirty = binary.LittleEndian.Uint16(b[10:])&volumeDirty != 0
	return nil
}

// logClean tells whether $LogFile says that nothing is to be replayed: it is empty (all bytes
// 0xFF), or its newer restart page has no client or the mark of a clean volume.
func (f *FS) logClean() (bool, error) {
	n, err := f.object(logRecord)
	if err != nil {
		return false, err
	}
	a, err := n.find(typeData, nil)
	if err != nil {
		return false, err
	}
	if a == nil || a.resident {
		return false, fsys.Corrupt("ntfs", "$LogFile", logRecord, -1, "it has no mapped content")
	}
	s, err := n.open(a)
	if err != nil {
		return false, err
	}
	le := binary.LittleEndian
	clean, newest, found := false, uint64(0), false
	for off, page := int64(0), int64(4096); off <= page; off += page {
		b := make([]byte, 4096)
		if err := extent.ReadAllAt(s, b, off); err != nil {
			return false, err
		}
		if off == 0 && len(bytes.Trim(b, "\xff")) == 0 {
			return true, nil
		}
		if string(b[:4]) != restartMagic {
			if string(b[:4]) == "CHKD" { // chkdsk has emptied it
				return true, nil
			}
			continue
		}
		if off == 0 {
			if n := int64(le.Uint32(b[0x10:])); n >= 4096 && n <= 64<<10 && bits.OnesCount64(uint64(n)) == 1 {
				page = n
			}
		}
		at := int(le.Uint16(b[0x18:]))
		if at < 0x1A || at+0x10 > stride-2 {
			continue // a torn or foreign page
		}
		if lsn := le.Uint64(b[at:]); !found || lsn >= newest {
			newest, found = lsn, true
			clean = le.Uint16(b[at+0xC:]) == noClient || le.Uint16(b[at+0xE:])&restartClean != 0
		}
	}
	if !found {
		return false, fsys.Corrupt("ntfs", "$LogFile", logRecord, -1, "it has no restart page")
	}
	return clean, nil
}

// hibernated tells whether Windows will go on from hiberfil.sys in place of starting anew.
func (f *FS) hibernated() bool {
	_, num, _, err := f.findName(rootIno, "hiberfil.sys")
	if err != nil || num == 0 {
		return false
	}
	n, err := f.object(num)
	if err != nil {
		return false
	}
	a, err := n.find(typeData, nil)
	if err != nil || a == nil {
		return false
	}
	r, err := n.open(a)
	if err != nil {
		return false
	}
	b := make([]byte, 4)
	return extent.ReadAllAt(r, b, 0) == nil && string(bytes.ToLower(b)) == "hibr"
}

// maxCountedBitmap bounds what Info reads to count free clusters and records: 4 TiB of clusters
// of 4 KiB. Beyond it the count is of that part only.
const maxCountedBitmap = 128 << 20

// Info describes the file system. Files are the records of the master file table. The first call
// reads the bitmaps of clusters and records.
func (f *FS) Info() fsys.Info {
	f.infoOnce.Do(func() {
		b := f.boot
		f.info = fsys.Info{
			Type: "ntfs", Label: f.volume.label, UUID: fmt.Sprintf("%016X", b.serial), BlockSize: uint32(b.cluster),
			Total: b.clusters * b.cluster, Files: f.mft.records, Journal: f.volume.journal, Warnings: f.notes,
		}
		if n, err := f.free(bitmapRecord, typeData, b.clusters); err == nil {
			f.info.Free = n * b.cluster
		}
		if n, err := f.free(0, typeBitmap, f.mft.records); err == nil {
			f.info.FreeFiles = n
		}
	})
	info := f.info
	info.Warnings = slices.Clone(info.Warnings)
	return info
}

// free counts the zero bits among the first of a bitmap.
func (f *FS) free(num uint64, typ uint32, count uint64) (uint64, error) {
	n, err := f.object(num)
	if err != nil {
		return 0, err
	}
	a, err := n.find(typ, nil)
	if err != nil {
		return 0, err
	}
	if a == nil {
		return 0, errors.New("there is no bitmap")
	}
	r, err := n.open(a)
	if err != nil {
		return 0, err
	}
	used := uint64(0)
	whole := min(int64(count/8), maxCountedBitmap)
	buf := make([]byte, min(whole+1, 1<<20))
	for off := int64(0); off < whole; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), whole-off)]
		if err := extent.ReadAllAt(r, buf, off); err != nil {
			return 0, err
		}
		used += ones(buf)
	}
	if rest := count % 8; rest > 0 && whole == int64(count/8) {
		if err := extent.ReadAllAt(r, buf[:1], whole); err != nil {
			return 0, err
		}
		used += uint64(bits.OnesCount8(buf[0] & (1<<rest - 1)))
	}
	return min(count, uint64(whole)*8+count%8) - used, nil
}

func ones(b []byte) uint64 {
	n := 0
	for ; len(b) >= 8; b = b[8:] {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(b))
	}
	for _, c := range b {
		n += bits.OnesCount8(c)
	}
	return uint64(n)
}
