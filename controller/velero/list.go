package velero

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// maxToken bounds a name or a key of the resource list, with the decoder's read-ahead: names have
// 253 bytes, namespaces 63.
const maxToken = 64 << 10

// listHasVM reads a backup's list of resources, JSON of the form
//
//	{"v1/PersistentVolumeClaim": ["ns/name", ...], "kubevirt.io/v1/VirtualMachine": ["ns/name", ...]}
//
// and tells whether the virtual machine is in it, of whatever version. It needs the memory of one
// name, and reads no further than to the one it looks for.
func listHasVM(r io.Reader, vm types.NamespacedName) (bool, error) {
	b := &budget{r: r}
	d := json.NewDecoder(b)
	next := func() (json.Token, error) {
		b.left = maxToken
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: the list of resources at byte %d: %w", ErrUnreadable, d.InputOffset(), unexpected(err))
		}
		return t, nil
	}
	want := func(w json.Delim) error {
		t, err := next()
		if err == nil && t != w {
			err = fmt.Errorf("%w: the list of resources has no %s at byte %d", ErrUnreadable, w, d.InputOffset())
		}
		return err
	}
	// more may have to read, past white space.
	more := func() bool { b.left = maxToken; return d.More() }

	if err := want('{'); err != nil {
		return false, err
	}
	for more() {
		t, err := next()
		if err != nil {
			return false, err
		}
		kind, ok := t.(string)
		ours := ok && strings.HasPrefix(kind, "kubevirt.io/") && strings.HasSuffix(kind, "/VirtualMachine")
		if err := want('['); err != nil {
			return false, err
		}
		for more() {
			t, err := next()
			if err != nil {
				return false, err
			}
			switch name, ok := t.(string); {
			case !ok:
				return false, fmt.Errorf("%w: the list of resources has no name at byte %d", ErrUnreadable, d.InputOffset())
			case ours && name == vm.String():
				return true, nil
			}
		}
		if err := want(']'); err != nil {
			return false, err
		}
	}
	return false, want('}')
}

// budget lets a reader return a number of bytes that is set anew for each step of a parser, so
// that no step can make it buffer more.
type budget struct {
	r    io.Reader
	left int
}

var errTooLong = errors.New("a name of more than 64 KiB")

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// unexpected makes an end of the input that comes too early an error that says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
