package ext4

import (
	"os/exec"
	"strings"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// features are the layouts that mke2fs makes and this kernel mounts. Each is filled by the kernel,
// and what the kernel then shows is what we must show.
var features = []struct {
	name    string
	options string
	mount   string
	kind    string   // as Info tells it
	before  []string // commands on the empty image, IMG, and
	after   []string // on the filled one
}{
	{"ext2 1k", "-t ext2 -b 1024", "", "ext2", nil, nil},
	{"ext2 4k", "-t ext2 -b 4096", "", "ext2", nil, nil},
	{"ext2 revision 0", "-t ext2 -r 0 -b 1024", "", "ext2", nil, nil},
	{"ext2 128-byte inodes without dir_index and filetype", "-t ext2 -b 2048 -I 128 -O ^dir_index,^filetype,^sparse_super,^resize_inode", "", "ext2", nil, nil},
	{"ext3", "-t ext3 -b 4096", "", "ext3", nil, nil},
	{"ext3 1k", "-t ext3 -b 1024 -I 128", "", "ext3", nil, nil},
	{"ext4", "", "", "ext4", nil, nil},
	{"ext4 1k", "-b 1024", "", "ext4", nil, nil},
	{"ext4 2k", "-b 2048 -g 8192", "", "ext4", nil, nil},
	{"no extents", "-O ^extent,^64bit", "", "ext4", nil, nil},
	{"no extents 1k", "-b 1024 -O ^extent,^64bit,^metadata_csum", "", "ext4", nil, nil},
	{"no 64bit", "-O ^64bit", "", "ext4", nil, nil},
	{"descriptors of 128 bytes", "-E desc_size=128 -O 64bit", "", "ext4", nil, nil},
	{"no journal", "-O ^has_journal", "", "ext4", nil, nil},
	{"bigalloc", "-O bigalloc -C 65536", "", "ext4", nil, nil},
	{"bigalloc 1k", "-b 1024 -O bigalloc -C 16384", "", "ext4", nil, nil},
	{"inline_data", "-O inline_data -I 256", "", "ext4", nil, nil},
	{"inline_data in large inodes", "-O inline_data -I 1024", "", "ext4", nil, nil},
	{"inline_data 1k without checksums", "-b 1024 -O inline_data,^metadata_csum -I 512", "", "ext4", nil, nil},
	{"no metadata_csum", "-O ^metadata_csum", "", "ext4", nil, nil},
	{"uninit_bg", "-O ^metadata_csum,uninit_bg -g 8192", "", "ext4", nil, nil},
	{"uninit_bg without 64bit", "-O ^metadata_csum,uninit_bg,^64bit -b 1024", "", "ext4", nil, nil},
	{"meta_bg", "-O meta_bg,^resize_inode -b 1024 -g 1024", "", "ext4", nil, nil},
	{"meta_bg without flex_bg and checksums", "-O meta_bg,^resize_inode,^flex_bg,^metadata_csum -b 1024 -g 512", "", "ext4", nil, nil},
	{"no flex_bg", "-O ^flex_bg -g 8192", "", "ext4", nil, nil},
	{"sparse_super2", "-O sparse_super2 -g 8192", "", "ext4", nil, nil},
	{"ea_inode", "-O ea_inode", "", "ext4", nil, nil},
	{"ea_inode without checksums", "-O ea_inode,^metadata_csum -b 1024", "", "ext4", nil, nil},
	{"ea_inode and inline_data", "-O ea_inode,inline_data", "", "ext4", nil, nil},
	{"large_dir", "-O large_dir", "", "ext4", nil, nil},
	{"metadata_csum_seed", "-O metadata_csum_seed", "", "ext4", nil, nil},
	{"inodes of 128 bytes", "-I 128", "", "ext4", nil, nil},
	{"inodes of 1024 bytes", "-I 1024", "", "ext4", nil, nil},
	{"quota and project", "", "", "ext4", nil, []string{"tune2fs -O quota,project IMG"}},
	{"mmp", "-O mmp", "", "ext4", nil, nil},
	{"orphan_file", "-O orphan_file", "", "ext4", nil, nil},
	{"fast_commit", "-O fast_commit", "", "ext4", nil, nil},
	{"legacy hash", "-b 1024", "", "ext4", []string{"tune2fs -E hash_alg=legacy IMG"}, nil},
	{"legacy hash, unsigned", "-b 1024", "", "ext4", []string{"tune2fs -E hash_alg=legacy IMG", "debugfs -w -R ssv\tflags\t2 IMG"}, nil},
	{"half MD4 hash, unsigned", "-b 1024", "", "ext4", []string{"debugfs -w -R ssv\tflags\t2 IMG"}, nil},
	{"TEA hash", "-b 1024", "", "ext4", []string{"tune2fs -E hash_alg=tea IMG"}, nil},
	{"TEA hash, unsigned", "-b 1024", "", "ext4", []string{"tune2fs -E hash_alg=tea IMG", "debugfs -w -R ssv\tflags\t2 IMG"}, nil},
	{"rehashed by e2fsck", "-b 1024 -O ^metadata_csum", "", "ext4", nil, []string{"e2fsck -fyD IMG"}},
	{"stable_inodes and encrypt", "-O stable_inodes,encrypt,verity", "", "ext4", nil, nil},
	{"journalled data", "", "data=journal", "ext4", nil, nil},
	{"everything", "-b 1024 -O bigalloc,inline_data,ea_inode,large_dir,metadata_csum_seed,orphan_file,64bit -C 4096 -I 512", "", "ext4", nil, nil},
}

func TestFeatures(t *testing.T) {
	for _, c := range features {
		t.Run(c.name, func(t *testing.T) {
			const size = 96 << 20
			options := strings.Fields(c.options)
			if !strings.Contains(c.options, "-b ") {
				options = append(options, "-b", "4096")
			}
			img := fixture.Ext4(t, "", size, options...)
			commands(t, img, c.before)
			kind := "ext4" // its driver mounts all three
			fs := openImage(t, img)
			dir := fixture.Mount(t, img, kind, "rw,barrier=0,"+c.mount, 0, 0)
			populate(t, dir, int(fs.sb.blockSize))
			fixture.Unmount(t, dir)
			commands(t, img, c.after)

			dir = fixture.Mount(t, img, kind, "ro", 0, 0)
			want := fixture.Manifest(t, dir)
			free := statfs(t, dir)
			fixture.Unmount(t, dir)

			fs = openImage(t, img)
			fsystest.Run(t, fs, want)
			checkIndex(t, fs, "hundreds", "deep0")
			info := fs.Info()
			if info.Type != c.kind || info.FreeFiles != free.Ffree || info.Free != free.Bfree*uint64(free.Bsize) {
				t.Errorf("%+v; the kernel says %+v", info, free)
			}
			if len(info.Warnings) != 0 && !strings.Contains(c.options, "encrypt") {
				t.Errorf("warnings: %q", info.Warnings)
			}
			if u := strings.TrimSpace(fixture.Run(t, "blkid", "-p", "-o", "value", "-s", "UUID", img)); u != info.UUID {
				t.Errorf("UUID %s, want %s", info.UUID, u)
			}
			if b := strings.TrimSpace(fixture.Run(t, "blkid", "-p", "-o", "value", "-s", "TYPE", img)); b != info.Type {
				t.Errorf("type %s, blkid says %s", info.Type, b)
			}
		})
	}
}

// commands runs programs on an image. Words are parted by spaces; a tab stands for a space in a word.
func commands(t testing.TB, img string, list []string) {
	t.Helper()
	for _, c := range list {
		words := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(c, "IMG", img), "\t", "\x00"))
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "\x00", " ")
		}
		fixture.Need(t, words[0])
		if words[0] == "e2fsck" { // its exit code tells what it changed
			_ = exec.Command(words[0], words[1:]...).Run()
			continue
		}
		fixture.Run(t, words[0], words[1:]...)
	}
}
