package image

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"vmfr/agent/jail"
)

// Program is the program at source on this machine, at a path of the image, with its dynamic
// loader and libraries, which the image has where this machine does. Programs of one image may
// share libraries: Merge keeps each once.
func Program(source, at string) ([]File, error) {
	loader, libraries, err := jail.Libraries(source)
	if err != nil {
		return nil, err
	}
	files := []File{{Path: at, Source: source, Mode: 0o755}}
	if loader != "" {
		libraries = append(libraries, loader)
	}
	for _, l := range libraries {
		files = append(files, File{Path: l, Source: l, Mode: 0o755})
	}
	return files, nil
}

// Dir is everything in a folder of this machine, at a path of the image, with its owners and modes.
func Dir(source, at string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == source {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := File{Path: path.Join(at, strings.TrimPrefix(file, source)), Mode: info.Mode()}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			f.UID, f.GID = int(owner.Uid), int(owner.Gid)
		}
		switch info.Mode().Type() {
		case 0:
			f.Source = file
		case fs.ModeDir:
		case fs.ModeSymlink:
			if f.Link, err = os.Readlink(file); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: an image holds no %s", file, info.Mode())
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

// Merge joins lists of files. Of several with the same path the first one is kept.
func Merge(lists ...[]File) []File {
	var all []File
	seen := map[string]bool{}
	for _, list := range lists {
		for _, f := range list {
			if p := path.Clean(f.Path); !seen[p] {
				seen[p] = true
				all = append(all, f)
			}
		}
	}
	return all
}

// Busybox is a shell and the usual small programs, from Debian's busybox-static.
func Busybox() ([]File, error) {
	source, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (make deps installs it)", err)
	}
	files, err := Program(source, "/bin/busybox")
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(source, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Path: "/bin/" + applet, Link: "busybox"})
		}
	}
	return files, nil
}

// Accounts are the names of users and groups that programs look up: root and nobody.
func Accounts() []File {
	return []File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnogroup:x:65534:\n")},
	}
}

// Pause is the image of the container that holds a Pod's namespaces: it reaps what is left to it
// and ends when asked.
func Pause() (Image, error) {
	files, err := Busybox()
	return Image{Name: "pause", Files: files, Entrypoint: []string{"/bin/sh", "-c", "trap exit TERM INT; sleep 2147483647 & wait"}}, err
}

// Tools is an image of Busybox for Pods that tests give a command; by itself it sleeps.
func Tools() (Image, error) {
	files, err := Busybox()
	files = Merge(files, Accounts(), []File{{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}})
	return Image{Name: "tools", Files: files, Cmd: []string{"/bin/sh", "-c", "trap exit TERM INT; sleep 2147483647 & wait"}}, err
}
