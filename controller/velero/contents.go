package velero

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// maxClaims is how many claims of the virtual machine's namespace are remembered until the virtual
// machine itself is read, since the order of entries is not fixed: at about 400 bytes each, 6.5
// MiB. Velero writes claims first, so all of a namespace count; no cluster has as many in one.
const maxClaims = 16 << 10

// contentsVM reads a backup's contents, a tar archive with an entry
//
//	resources/<resource>.<group>/namespaces/<namespace>/<name>.json
//
// for each object (and further ones with the version after the resource), and returns the virtual
// machine with its claims. Entries of other objects are skipped without being kept. It
// stops as soon as the virtual machine and all its claims were read. Of a claim that is not in the
// backup only the end of the archive tells.
func contentsVM(r io.Reader, vm types.NamespacedName) (VM, error) {
	var (
		volumes []volume
		found   bool
		missing map[string]bool // claims of the virtual machine that were not read yet
		claims  = map[string]PVC{}
		buf     bytes.Buffer
	)
	object := func(t *tar.Reader, name string) ([]byte, error) {
		buf.Reset()
		n, err := io.Copy(&buf, io.LimitReader(t, maxEntry+1))
		if err != nil {
			return nil, archive(err)
		}
		if n > maxEntry {
			return nil, fmt.Errorf("%w: %.512q has more than %d bytes", ErrUnreadable, name, maxEntry)
		}
		return buf.Bytes(), nil
	}
	t := tar.NewReader(r)
	for !found || len(missing) > 0 {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return VM{}, archive(err)
		}
		resource, key, ok := entry(h.Name)
		if !ok || h.Typeflag != tar.TypeReg || key.Namespace != vm.Namespace {
			continue
		}
		switch {
		case resource == virtualMachines && key == vm && !found:
			b, err := object(t, h.Name)
			if err != nil {
				return VM{}, err
			}
			if volumes, err = vmVolumes(b); err != nil {
				return VM{}, fmt.Errorf("%w: the VirtualMachine %s: %w", ErrUnreadable, vm, err)
			}
			found, missing = true, make(map[string]bool, len(volumes))
			for _, v := range volumes {
				if _, ok := claims[v.claim]; !ok {
					missing[v.claim] = true
				}
			}
		case resource == "persistentvolumeclaims" && (!found || missing[key.Name]):
			if _, again := claims[key.Name]; again {
				continue // another version of the same
			}
			if len(claims) == maxClaims {
				return VM{}, fmt.Errorf("%w: more than %d PersistentVolumeClaims of the namespace %s come before the VirtualMachine", ErrUnreadable, maxClaims, vm.Namespace)
			}
			b, err := object(t, h.Name)
			if err != nil {
				return VM{}, err
			}
			p, err := claim(b)
			if err != nil {
				return VM{}, fmt.Errorf("%w: the PersistentVolumeClaim %s: %w", ErrUnreadable, key, err)
			}
			p.Name, p.Namespace = key.Name, key.Namespace
			claims[key.Name] = p
			delete(missing, key.Name)
		}
	}
	if !found {
		return VM{}, ErrNoVM
	}
	var result VM
	for i, v := range volumes {
		p, ok := claims[v.claim]
		if !ok {
			result.Missing = append(result.Missing, v.claim)
			continue
		}
		p.Index, p.Bus = i, v.bus
		result.PVCs = append(result.PVCs, p)
	}
	return result, nil
}

// entry splits the name of an archive's entry. The resource may be followed by its version.
func entry(path string) (resource string, key types.NamespacedName, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "./"), "resources/")
	if !ok {
		return "", key, false
	}
	parts := strings.Split(rest, "/")
	if len(parts) == 5 { // resource, version, "namespaces", namespace, name
		parts = append(parts[:1], parts[2:]...)
	}
	if len(parts) != 4 || parts[1] != "namespaces" {
		return "", key, false
	}
	name, ok := strings.CutSuffix(parts[3], ".json")
	if !ok || len(name) > maxText {
		return "", key, false
	}
	return parts[0], types.NamespacedName{Namespace: parts[2], Name: strings.Clone(name)}, true
}

// archive says that an error is of the archive, unless it is of the way to it.
func archive(err error) error {
	if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnreadable) {
		return err
	}
	return fmt.Errorf("%w: the archive: %w", ErrUnreadable, unexpected(err))
}
