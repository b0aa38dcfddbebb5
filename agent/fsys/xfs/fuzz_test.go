package xfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// fuzzCache keeps the metadata cache small: a fuzz target opens thousands of file systems.
const fuzzCache = 256 << 10

// hotBlocks are the places of the blocks of 1 KiB that hold anything, those of the log apart.
func hotBlocks(h *hostile) []int {
	var hot []int
	zero := make([]byte, 1024)
	log := int(h.fs.sb.logStart) * 1024
	for off := 0; off < len(h.b); off += 1024 {
		if in := off - log; in >= 0 && in < int(h.fs.sb.logBlocks)*1024 {
			continue
		}
		if !bytes.Equal(h.b[off:off+1024], zero) {
			hot = append(hot, off)
		}
	}
	return hot
}

// patch stores the values of records: number of a hot block (2), offset in it (2), value (1); then it
// makes the checksums of the structures there right.
func (h *hostile) patch(hot []int, records []byte) {
	var touched []int
	for ; len(records) >= 5; records = records[5:] {
		at := hot[int(binary.LittleEndian.Uint16(records))%len(hot)] + int(binary.LittleEndian.Uint16(records[2:]))%1024
		h.put(at, records[4])
		touched = append(touched, at&^1023)
	}
	for _, at := range touched {
		h.sealAny(at)
	}
}

// sealAny makes the checksums right of whatever is in the block of 1 KiB at off.
func (h *hostile) sealAny(off int) {
	for at := off; at < off+1024; at += 512 {
		if h.get16(at) == inodeMagic {
			h.seal(at, 512, 100)
		}
	}
	switch h.get32(off) {
	case superMagic:
		h.sealSuper()
	case bmbtMagicV5:
		h.sealBmbt(off)
	case attrRemoteMagic:
		h.seal(off, 1024, remoteHeader.crc)
	case symlinkMagic:
		h.seal(off, 2048, remoteHeader.crc)
	}
	if m := h.get16(off + daMagic); m == attrLeafMagicV5 || m == daNodeMagicV5 {
		h.sealAttr(off)
	}
	for at := max(0, off-3*1024); at <= off && at+4096 <= len(h.b); at += 1024 {
		if m := h.get32(at); m == dirBlockMagicV5 || m == dirDataMagicV5 {
			h.sealDir(at)
		}
		if m := h.get16(at + daMagic); m == leaf1MagicV5 || m == leafNMagicV5 || m == daNodeMagicV5 {
			if h.get64(at+daHeader.owner) != 0 && at != off || m != daNodeMagicV5 {
				h.sealIndex(at)
			}
		}
	}
}

// FuzzImage opens a damaged image, walks it and reads everything. The input is records as patch
// takes them.
func FuzzImage(f *testing.F) {
	h := newHostile(f)
	hot := hotBlocks(h)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 120, 0, 11, 5, 0, 8, 0, 9})
	for i := range hot {
		f.Add([]byte{byte(i), byte(i >> 8), byte(7 * i), byte(i % 4), byte(3 * i)})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		defer h.restore()
		h.patch(hot, in[:min(len(in), 5*256)])
		fs, err := Open(extent.Bytes(h.b), Options{CacheBytes: fuzzCache})
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatalf("open: an error of no kind: %v", err)
			}
			return
		}
		if err := survey(fs); err != nil && !ofKnownKind(err) {
			t.Fatal(err)
		}
	})
}

// openDamaged opens the image as it is now, which the target has damaged below its superblock only.
func (h *hostile) openDamaged() *FS {
	return must(Open(extent.Bytes(h.b), Options{CacheBytes: fuzzCache}))
}

// FuzzDirBlock lists a directory of one block of arbitrary bytes behind its header, and looks up
// what it lists.
func FuzzDirBlock(f *testing.F) {
	h := newHostile(f)
	at, dir := h.block("block", 0), h.ino("block")
	f.Add(bytes.Clone(h.b[at+48 : at+4096]))
	f.Add(bytes.Clone(h.b[h.block("node", 0)+48:][:4048]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		defer h.restore()
		b := make([]byte, 4096-48)
		copy(b, in)
		h.put(at+48, b...)
		h.sealDir(at)
		fs := h.openDamaged()
		buf := make([]fsys.Dirent, 7)
		from, names := fsys.Cookie(0), 0
		for err := error(nil); err == nil; {
			var n int
			n, err = fs.ReadDir(dir, from, buf)
			if n == 0 && err == nil {
				t.Fatalf("at %d: no entry and no error", from)
			}
			if err != nil && err != io.EOF && !ofKnownKind(err) {
				t.Fatal(err)
			}
			for _, d := range buf[:n] {
				if d.Name == "" || d.Name == "." || d.Name == ".." || strings.ContainsAny(d.Name, "/\x00") || d.Ino == 0 {
					t.Fatalf("entry %q of inode %d", d.Name, d.Ino)
				}
				if d.Next&^cookieDamaged <= from&^cookieDamaged {
					t.Fatalf("the cookie goes from %d to %d", from, d.Next)
				}
				if _, err := fs.Lookup(dir, d.Name); err != nil {
					t.Fatalf("%q is listed and not found: %v", d.Name, err)
				}
				from = d.Next
			}
			if names += n; names > 4096/minDirent {
				t.Fatalf("%d names in one block", names)
			}
		}
	})
}

// FuzzForks decodes arbitrary bytes as the forks of a file: the first selects the formats and where
// the attribute fork begins, the rest is the literal area. The file is read and its attributes are.
func FuzzForks(f *testing.F) {
	h := newHostile(f)
	ino, at := h.ino("deep"), h.inode("deep")
	for _, path := range []string{"deep", "few", "xs", "xl", "xr", "xn"} {
		i := h.inode(path)
		f.Add([]byte{h.b[i+inoFormat]&3 | h.b[i+inoAformat]&3<<2, h.b[i+inoForkoff], h.b[i+inoExtents+3]}, bytes.Clone(h.b[i+inoFork:i+512]))
	}
	f.Fuzz(func(t *testing.T, head, in []byte) {
		defer h.restore()
		head = append(head, 0, 0, 0)
		area := make([]byte, 512-inoFork)
		copy(area, in)
		h.put(at+inoFork, area...)
		h.put(at+inoFormat, head[0]&3)
		h.put(at+inoAformat, head[0]>>2&3)
		h.put(at+inoForkoff, head[1])
		h.put(at+inoExtents+3, head[2])
		h.sealInode(at)
		fs := h.openDamaged()
		checkMapping(t, fs, ino)
		xs, err := fs.Xattrs(ino)
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatal(err)
			}
			return
		}
		for name := range xs {
			if strings.ContainsRune(name, 0) || len(name) > 255+len("security.") {
				t.Fatalf("name %q", name)
			}
		}
	})
}

// checkMapping requires that a file's extents cover it without gaps, lie in the file system, and
// agree with what is read.
func checkMapping(t *testing.T, fs *FS, ino fsys.Ino) {
	t.Helper()
	r, err := fs.Open(ino)
	if err != nil {
		if !ofKnownKind(err) {
			t.Fatal(err)
		}
		return
	}
	const maxSteps = 500
	buf := make([]byte, 4096)
	steps := 0
	for off := int64(0); off < r.Size(); {
		x, err := r.Extent(off, r.Size()-off)
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatal(err)
			}
			off += 1024 // behind a damaged part
			if steps++; steps > maxSteps {
				return
			}
			continue
		}
		if x.Len <= 0 || x.Len > r.Size()-off {
			t.Fatalf("extent of %d bytes at %d of %d", x.Len, off, r.Size())
		}
		b := buf[:min(x.Len, int64(len(buf)))]
		if n, err := r.ReadAt(b, off); n < len(b) {
			t.Fatalf("%d bytes of an extent of %d at %d: %v", n, x.Len, off, err)
		}
		if x.Zero && len(bytes.Trim(b, "\x00")) > 0 {
			t.Fatalf("the hole at %d is not zeros", off)
		}
		off += x.Len
		if steps++; steps > maxSteps {
			return
		}
	}
}
