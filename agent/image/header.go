package image

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"vmfr/agent/ondisk"
)

// The layout and the names are those of QEMU's docs/interop/qcow2.txt. All integers are big
// endian. Limits without another reason are QEMU's own, so an image it writes is read here.
const (
	headerSizeV2 = 72
	headerSizeV3 = 104

	minClusterBits    = 9
	maxClusterBits    = 21
	minSubclusterBits = minClusterBits
	subclusters       = 32 // of a cluster, with extended L2 entries
	extL2ClusterBits  = 14 // the least with extended L2: 32 subclusters of 512 bytes

	maxL1Bytes       = 32 << 20
	maxDiskSize      = 1 << 61 // what such an L1 table maps with the largest clusters: 2^22 * 2^39
	maxRefTableBytes = 8 << 20
	maxSnapshots     = 65536
	minSnapshotSize  = 40
	maxBackingName   = 1023

	cryptNone, cryptAES, cryptLUKS = 0, 1, 2

	compressionZlib, compressionZstd = 0, 1
)

// Incompatible feature bits: a reader must know every one that is set.
const (
	featDirty       = 1 << 0 // lazy reference counts not yet written: nothing to a reader
	featCorrupt     = 1 << 1
	featDataFile    = 1 << 2
	featCompression = 1 << 3
	featExtendedL2  = 1 << 4
	featKnown       = featDirty | featCorrupt | featDataFile | featCompression | featExtendedL2
)

// Header extension types.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extFeatureNames  = 0x6803f857
	featureNameSize  = 48
)

// header is what a qcow2 header tells, checked.
type header struct {
	version       int
	clusterBits   uint
	size          int64 // bytes of the disk
	l1Entries     int64
	l1Offset      int64
	extendedL2    bool
	compression   uint8
	dirty         bool
	snapshots     int
	backing       string // "" for none
	backingFormat string // "" where the image does not tell
}

// readHeader reads and checks the header of f. Errors wrap ErrCorrupt or ErrUnsupported and
// name the file.
func readHeader(f hostFile) (header, error) {
	var h header
	fail := func(kind error, format string, args ...any) (header, error) {
		return h, fmt.Errorf("%w: qcow2 header of %s: %s", kind, f.Name(), fmt.Sprintf(format, args...))
	}
	buf := make([]byte, 512)
	n, err := f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return h, fmt.Errorf("image: %w", err)
	}
	v := ondisk.Big(buf[:n])
	magic, version := v.Bytes(0, 4), v.U32(4)
	if v.Err() != nil || string(magic) != qcow2Magic {
		return fail(ErrCorrupt, "no qcow2 signature; pass format=raw if this is a raw disk")
	}
	if version != 2 && version != 3 {
		return fail(ErrUnsupported, "version %d; only 2 and 3 are known", version)
	}
	h.version = int(version)
	if n < headerSizeV2 || version >= 3 && n < headerSizeV3 {
		return fail(ErrCorrupt, "the file ends in it")
	}

	bits := v.U32(20)
	if bits < minClusterBits || bits > maxClusterBits {
		return fail(ErrCorrupt, "cluster_bits %d is not within %d to %d", bits, minClusterBits, maxClusterBits)
	}
	h.clusterBits = uint(bits)
	cluster := int64(1) << bits

	var features uint64
	length := uint32(headerSizeV2)
	if version >= 3 {
		features = v.U64(72)
		length = v.U32(100)
		if order := v.U32(96); order > 6 {
			return fail(ErrCorrupt, "refcount_order %d is above 6", order)
		}
		if length < headerSizeV3 || length%8 != 0 || int64(length) > cluster {
			return fail(ErrCorrupt, "header_length %d is not a multiple of 8 within %d to a cluster", length, headerSizeV3)
		}
		if length > headerSizeV3 {
			h.compression = v.U8(104) // 0 where the file ends before it: found out below
		}
	}

	// The extensions are read before the features are judged: they can name unknown ones.
	nameOff, nameLen := v.U64(8), v.U32(16)
	if nameOff != 0 {
		if nameLen > maxBackingName || nameOff < uint64(length) || nameOff > uint64(cluster)-uint64(nameLen) {
			return fail(ErrCorrupt, "backing file name of %d bytes at byte %d is not inside the first cluster", nameLen, nameOff)
		}
	}
	first := make([]byte, min(cluster, f.length))
	if _, err := f.ReadAt(first, 0); err != nil && err != io.EOF {
		return h, fmt.Errorf("image: %w", err)
	}
	extEndOff := uint64(cluster)
	if nameOff != 0 {
		name := ondisk.Big(first)
		h.backing = string(name.Bytes(int(nameOff), int(nameLen)))
		if name.Err() != nil {
			return fail(ErrCorrupt, "the file ends in the backing file name")
		}
		extEndOff = nameOff
	}
	names, err := h.readExtensions(first, int(length), int(min(extEndOff, uint64(len(first)))))
	if err != nil {
		return fail(ErrCorrupt, "%v", err)
	}

	if unknown := features &^ featKnown; unknown != 0 {
		return fail(ErrUnsupported, "unknown incompatible features %s; convert the image with a tool that knows them", featureList(unknown, names))
	}
	if features&featCorrupt != 0 {
		return fail(ErrCorrupt, "it is marked corrupt; repair a copy with qemu-img check -r all")
	}
	if features&featDataFile != 0 {
		return fail(ErrUnsupported, "its data is in an external file; convert it with qemu-img convert -O qcow2")
	}
	switch crypt := v.U32(32); crypt {
	case cryptNone:
	case cryptAES, cryptLUKS:
		return fail(ErrUnsupported, "it is encrypted (%s); decrypt it with qemu-img convert first", []string{"", "AES", "LUKS"}[crypt])
	default:
		return fail(ErrUnsupported, "unknown encryption method %d", crypt)
	}
	switch {
	case h.compression > compressionZstd:
		return fail(ErrUnsupported, "unknown compression type %d", h.compression)
	case (h.compression != compressionZlib) != (features&featCompression != 0):
		return fail(ErrCorrupt, "compression type %d contradicts its feature bit", h.compression)
	}
	h.dirty = features&featDirty != 0
	h.extendedL2 = features&featExtendedL2 != 0
	if h.extendedL2 && bits < extL2ClusterBits {
		return fail(ErrCorrupt, "extended L2 entries need clusters of at least 16384 bytes, not %d", cluster)
	}

	size := v.U64(24)
	if size > maxDiskSize {
		return fail(ErrCorrupt, "virtual size %d is too large", size)
	}
	h.size = int64(size)

	// The tables. L1: one entry for each L2 table that the virtual size needs, or more.
	h.l1Entries = int64(v.U32(36))
	need := (h.size + h.l2Span() - 1) >> h.l2SpanBits()
	if h.l1Entries > maxL1Bytes/8 {
		return fail(ErrCorrupt, "L1 table of %d entries is larger than %d MiB", h.l1Entries, maxL1Bytes>>20)
	}
	if h.l1Entries < need {
		return fail(ErrCorrupt, "L1 table of %d entries is too small for a disk of %d bytes, which needs %d", h.l1Entries, h.size, need)
	}
	if h.l1Offset, err = f.table("L1 table", v.U64(40), uint64(h.l1Entries)*8, cluster); err != nil {
		return fail(ErrCorrupt, "%v", err)
	}
	refBytes := uint64(v.U32(56)) << bits
	if refBytes == 0 || refBytes > maxRefTableBytes {
		return fail(ErrCorrupt, "reference count table of %d bytes; more than 0 and at most %d MiB are allowed", refBytes, maxRefTableBytes>>20)
	}
	if _, err = f.table("reference count table", v.U64(48), refBytes, cluster); err != nil {
		return fail(ErrCorrupt, "%v", err)
	}
	snaps := v.U32(60)
	if snaps > maxSnapshots {
		return fail(ErrCorrupt, "%d snapshots; at most %d are allowed", snaps, maxSnapshots)
	}
	if _, err = f.table("snapshot table", v.U64(64), uint64(snaps)*minSnapshotSize, cluster); err != nil {
		return fail(ErrCorrupt, "%v", err)
	}
	h.snapshots = int(snaps)
	return h, nil
}

// l2SpanBits is the binary logarithm of the bytes of disk that one L2 table maps: a cluster
// full of entries of 8 bytes (16 if extended), each for one cluster. At most 21+18 bits.
func (h *header) l2SpanBits() uint {
	if h.extendedL2 {
		return 2*h.clusterBits - 4
	}
	return 2*h.clusterBits - 3
}

func (h *header) l2Span() int64 { return 1 << h.l2SpanBits() }

// table checks that a table of n bytes at off is aligned to clusters, behind the header and
// inside the file. An empty table may be anywhere.
func (f hostFile) table(what string, off, n uint64, cluster int64) (int64, error) {
	if n == 0 {
		return 0, nil
	}
	if off == 0 || off%uint64(cluster) != 0 {
		return 0, fmt.Errorf("%s at byte %d is not aligned to clusters of %d bytes behind the header", what, off, cluster)
	}
	o, _, ok := ondisk.Range(off, 1, 1, f.length)
	if !ok || n > uint64(f.length-o) {
		return 0, fmt.Errorf("%s of %d bytes at byte %d is not inside the file of %d bytes", what, n, off, f.length)
	}
	return o, nil
}

// readExtensions walks the header extensions in first[off:end] (type, length, data, padding
// to 8 bytes) and returns the feature name table. Unknown ones can be ignored by definition.
func (h *header) readExtensions(first []byte, off, end int) (names []byte, err error) {
	for end-off >= 8 { // each step takes at least 8 bytes of at most a cluster
		v := ondisk.Big(first[off:end])
		kind, n := v.U32(0), v.U32(4)
		if kind == extEnd {
			break
		}
		if int64(n) > int64(end-off-8) {
			return nil, fmt.Errorf("extension %#x of %d bytes at byte %d leaves the header", kind, n, off)
		}
		body := v.Bytes(8, int(n))
		switch kind {
		case extBackingFormat:
			h.backingFormat = string(body)
		case extFeatureNames:
			names = body
		}
		off += 8 + (int(n)+7)&^7
	}
	return names, nil
}

// featureList names the set bits of incompatible features, from the image's own feature name
// table (entries: type 0, bit number, name of 46 bytes) where it has them.
func featureList(set uint64, names []byte) string {
	known := map[uint8]string{}
	for ; len(names) >= featureNameSize; names = names[featureNameSize:] {
		if names[0] == 0 {
			name, _, _ := bytes.Cut(names[2:featureNameSize], []byte{0})
			known[names[1]] = string(name)
		}
	}
	var list []string
	for bit := uint8(0); bit < 64; bit++ {
		if set>>bit&1 == 0 {
			continue
		}
		s := fmt.Sprintf("bit %d", bit)
		if name := known[bit]; name != "" {
			s += fmt.Sprintf(" (%q)", name)
		}
		list = append(list, s)
	}
	return strings.Join(list, ", ")
}
