// Package image makes container images from files, without a registry, a builder or a daemon, for
// tests: an archive that containerd, Docker and Podman load.
//
//	ref, err := image.Image{Name: "driver", Entrypoint: []string{"/driver"},
//		Files: []image.File{{Path: "/driver", Source: "/tmp/driver", Mode: 0o755}}}.Write("driver.tar")
//
// An image is a function of its files' contents: times, order and the machine's owners are not in
// it, and its tag is its digest. So a Pod of a reference runs exactly these files, a changed image is
// another one, and no pull policy needs to be thought about.
//
// Non-goals: base images, several layers, platforms other than this machine's.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Repository is where all images seem to come from; nothing is asked there.
const Repository = "localhost/vmfr/"

// Image is what an image is made of.
type Image struct {
	Name       string // the last part of its reference
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string // NAME=value; PATH has a default
	User       string   // "UID", "UID:GID"; empty: root
	WorkingDir string   // empty: /
	Labels     map[string]string
}

// File is a file, a folder or a symbolic link of an image. Folders above it need not be named; they
// are root's with mode 0755.
type File struct {
	Path     string      // absolute
	Mode     fs.FileMode // permissions and fs.ModeSetuid, ModeSetgid, ModeSticky; fs.ModeDir: a folder
	UID, GID int
	Source   string // the file on this machine whose content it has
	Content  []byte // its content where Source is empty
	Link     string // what it links to; Source, Content and Mode are not used
}

// Write writes the image's archive to path and returns the reference that Pods name it by.
func (i Image) Write(path string) (reference string, err error) {
	img, err := i.build()
	if err != nil {
		return "", fmt.Errorf("image %s: %w", i.Name, err)
	}
	tag, err := i.tag(img)
	if err != nil {
		return "", err
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		return "", fmt.Errorf("image %s: %w", i.Name, err)
	}
	return tag.String(), nil
}

// tag is the image's reference, whose tag is from its digest.
func (i Image) tag(img v1.Image) (name.Tag, error) {
	digest, err := img.ConfigName()
	if err != nil {
		return name.Tag{}, fmt.Errorf("image %s: %w", i.Name, err)
	}
	const enough = 16
	return name.NewTag(Repository + i.Name + ":" + digest.Hex[:enough])
}

// build makes the image in memory; contents of files are read when it is written.
func (i Image) build() (v1.Image, error) {
	files, err := complete(i.Files)
	if err != nil {
		return nil, err
	}
	// Archives are loaded once, on this machine: compressing would only take time.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeLayer(w, files)) }()
		return r, nil
	}, tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config = v1.Config{Entrypoint: i.Entrypoint, Cmd: i.Cmd, User: i.User, WorkingDir: cmp.Or(i.WorkingDir, "/"), Labels: i.Labels,
		Env: i.Env}
	if !slices.ContainsFunc(i.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		config.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...)
	}
	return mutate.ConfigFile(img, config)
}

// complete checks files, adds the folders above them and sorts all by path.
func complete(files []File) ([]File, error) {
	all := map[string]File{}
	for _, f := range files {
		clean := path.Clean(f.Path)
		if !path.IsAbs(f.Path) || clean == "/" {
			return nil, fmt.Errorf("%q is not an absolute path of a file", f.Path)
		}
		f.Path = clean
		if _, twice := all[clean]; twice {
			return nil, fmt.Errorf("%s is there twice", clean)
		}
		all[clean] = f
	}
	for _, f := range files {
		for dir := path.Dir(path.Clean(f.Path)); dir != "/"; dir = path.Dir(dir) {
			if above, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			} else if !above.Mode.IsDir() || above.Link != "" {
				return nil, fmt.Errorf("%s is below %s, which is no folder", f.Path, dir)
			}
		}
	}
	sorted := make([]File, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return sorted, nil
}

// writeLayer writes the files as a tar archive.
func writeLayer(w io.Writer, files []File) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		if err := f.write(t); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return t.Close()
}

func (f File) write(t *tar.Writer) error {
	// PAX can hold every name; the time is the same for all, and not now.
	h := &tar.Header{Format: tar.FormatPAX, Name: strings.TrimPrefix(f.Path, "/"), Uid: f.UID, Gid: f.GID, ModTime: time.Unix(0, 0)}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		return t.WriteHeader(h)
	case f.Mode.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, h.Name+"/", tarMode(f.Mode)
		return t.WriteHeader(h)
	}
	var content io.Reader = bytes.NewReader(f.Content)
	h.Typeflag, h.Size, h.Mode = tar.TypeReg, int64(len(f.Content)), tarMode(f.Mode)
	if f.Source != "" {
		file, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer file.Close()
		st, err := file.Stat()
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return errors.New(f.Source + " is no regular file")
		}
		content, h.Size = file, st.Size()
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(t, content)
	return err
}

// tarMode is a mode as tar has it.
func tarMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, is := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&is != 0 {
			mode |= bit
		}
	}
	return mode
}
