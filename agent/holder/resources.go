package holder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// resources are the descriptors that a holder hands over, and keeps.
type resources struct {
	ssh, https *os.File // listening sockets
	disks      []disk
}

// disk is one disk; err is why it could not be opened.
type disk struct {
	api.Disk
	file   *os.File
	format string
	err    error
	told   string // the err that was logged last
}

// open opens what the documents name and is not open yet. A disk that cannot be opened does not
// keep the others from being served; a listener that cannot be opened is an error.
func (r *resources) open(h *holder) error {
	if h.Backup == "" {
		s := h.docs.session
		return errors.Join(listen(&r.ssh, s.SSH != nil, h.ListenSSH, api.PortSSH, "SSH", h), listen(&r.https, s.Browser != nil, h.ListenHTTPS, api.PortHTTPS, "HTTPS", h))
	}
	if !slices.EqualFunc(r.disks, h.docs.disks, func(d disk, doc api.Disk) bool { return d.Disk == doc }) {
		r.closeDisks()
		r.disks = nil
		for _, d := range h.docs.disks {
			r.disks = append(r.disks, disk{Disk: d})
		}
	}
	r.improve(h)
	return nil
}

// improve tries the disks that are not open; it tells whether one of them is now. It is called again and
// again: why a disk cannot be opened is logged when that is another reason than before.
func (r *resources) improve(h *holder) bool {
	better := false
	for i := range r.disks {
		if d := &r.disks[i]; d.file == nil {
			d.file, d.format, d.err = openDisk(h, i, d.Mode)
			better = better || d.err == nil
			log := h.Log.With("disk", d.Name, "index", i)
			switch {
			case d.err != nil && d.err.Error() != d.told:
				d.told = d.err.Error()
				log.Warn("a disk cannot be opened", "err", d.err)
			case d.err == nil && d.told != "":
				d.told = ""
				log.Info("a disk is open now")
			}
		}
	}
	return better
}

// listen opens a socket where it is wanted and closes it where it is not any more.
func listen(f **os.File, wanted bool, address string, port int, name string, h *holder) error {
	if !wanted || *f != nil {
		if !wanted && *f != nil {
			_ = (*f).Close()
			*f = nil
		}
		return nil
	}
	if address == "" {
		address = ":" + strconv.Itoa(port) // both families, where the pod has both
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer l.Close()
	t, ok := l.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("%s: %s is no TCP address", name, address)
	}
	if *f, err = t.File(); err != nil { // a descriptor of its own
		return fmt.Errorf("%s: %w", name, err)
	}
	h.Log.Info("listening", "for", name, "address", l.Addr().String())
	return nil
}

// openDisk opens the disk with this index.
func openDisk(h *holder, index int, mode api.Mode) (f *os.File, format string, err error) {
	if mode == api.Block {
		f, err = os.OpenFile(h.path(api.Device(index)), os.O_RDONLY|unix.O_NONBLOCK, 0)
	} else {
		f, format, err = openImage(h.path(api.Volume(index)))
	}
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: the image must be readable by group 107 or by everybody, or the holder needs CAP_DAC_OVERRIDE", err)
		}
		return nil, "", err
	}
	if err := session.CheckDisk(f, mode); err != nil {
		_ = f.Close()
		return nil, "", err
	}
	return f, format, nil
}

// imageName is how KubeVirt calls the image on a file-system volume.
const imageName = "disk.img"

// suffixes are of files that are taken where there is no disk.img but one of them.
var suffixes = []string{".img", ".raw", ".qcow2"}

// maxEntries bounds the entries of a volume's top folder that are looked at.
const maxEntries = 1000

// openImage opens the image in dir. A guest's administrator may have written to the volume, so
// nothing outside of it (os.Root) and nothing but a regular file is opened: a link could otherwise
// lead to the holder's own secrets.
func openImage(dir string) (*os.File, string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	name := imageName
	switch st, err := root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		if name, err = onlyImage(root, dir); err != nil {
			return nil, "", err
		}
	case err != nil:
		return nil, "", err
	case st.Mode()&fs.ModeSymlink != 0:
		return nil, "", fmt.Errorf("%s is a symbolic link, which is not followed", filepath.Join(dir, name))
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not block
	format := ""
	if strings.HasSuffix(name, ".qcow2") {
		format = "qcow2"
	}
	return f, format, err
}

// onlyImage finds the one image file in a volume.
func onlyImage(root *os.Root, dir string) (string, error) {
	d, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var found []string
	for _, e := range entries {
		for _, s := range suffixes {
			if strings.HasSuffix(e.Name(), s) && e.Type().IsRegular() {
				found = append(found, e.Name())
			}
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s holds no disk.img and no *.img, *.raw or *.qcow2: is this volume a VM's disk?", dir)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s holds %d image files and no disk.img: which one is the disk cannot be known", dir, len(found))
}

// part describes the disks.
func (r *resources) part(backup string) session.Part {
	p := session.Part{Backup: backup}
	for _, d := range r.disks {
		x := session.Disk{Format: d.format}
		switch {
		case d.err != nil:
			x = session.Disk{Error: api.Text(d.err.Error())}
		case d.file == nil:
			x = session.Disk{Error: "it is not open"}
		default:
			x.Source = api.Text(filepath.Base(d.file.Name()))
		}
		p.Disks = append(p.Disks, x)
	}
	return p
}

func (r *resources) listening() session.Listeners {
	return session.Listeners{SSH: r.ssh != nil, HTTPS: r.https != nil}
}

// files are all descriptors in the order of a Hello.
func (r *resources) files() (out []*os.File) {
	for _, f := range []*os.File{r.ssh, r.https} {
		if f != nil {
			out = append(out, f)
		}
	}
	for _, d := range r.disks {
		if d.file != nil {
			out = append(out, d.file)
		}
	}
	return out
}

func (r *resources) closeDisks() {
	for _, d := range r.disks {
		if d.file != nil {
			_ = d.file.Close()
		}
	}
}

func (r *resources) close() {
	r.closeDisks()
	for _, f := range []*os.File{r.ssh, r.https} {
		if f != nil {
			_ = f.Close()
		}
	}
}
