package velero

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// FuzzList: whatever a list of resources is, reading it ends with an answer or ErrUnreadable, and
// the virtual machine is found only where its name is.
func FuzzList(f *testing.F) {
	for _, s := range []string{
		`{"kubevirt.io/v1/VirtualMachine":["bank/db","shop/db"],"v1/Pod":["shop/db"]}`,
		`{"kubevirt.io/v1alpha3/VirtualMachine":[],"v1/Pod":[]}`, `{"a":["` + strings.Repeat("x", 100) + `"]}`,
		`{"kubevirt.io/v1/VirtualMachine":["shop\u002fdb"]}`, `{"v1/Pod":[[["shop/db"]]]}`, `{}`, `[`, `{"kubevirt.io/v1/VirtualMachine":["shop/db"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b := &widest{r: bytes.NewReader(in)}
		has, err := listHasVM(b, guest)
		switch {
		case err != nil && (has || !errors.Is(err, ErrUnreadable)):
			t.Fatalf("%v, %v", has, err)
		case has && !bytes.Contains(in, []byte("VirtualMachine")) && !bytes.ContainsRune(in, '\\'):
			t.Fatal("found in a list without virtual machines")
		case b.widest > 2*maxToken:
			t.Fatalf("a buffer of %d bytes", b.widest)
		}
	})
}

// FuzzContents: whatever an archive holds, what is returned has distinct claims of the virtual
// machine's namespace in rising order, and bounded texts.
func FuzzContents(f *testing.F) {
	root := pvcFile("shop", "root", block5)
	f.Add(archiveOf(f, root, file{vmPath, vmSpec}), []byte(vmSpec), []byte(root.content))
	f.Add(archiveOf(f, file{vmPath, vmSpec}, root)[:1200], []byte(`{"spec":null}`), []byte(`{"spec":{"resources":{"requests":{"storage":"1e99"}}}}`))
	f.Add([]byte{}, []byte(`{"spec":{"template":{"spec":{"volumes":[{"name":"a","dataVolume":{"name":"b"}},{"name":"a","persistentVolumeClaim":{"claimName":"b"}}]}}}}`), []byte(`{"metadata":{"labels":{"velero.kubevirt.io/pvc-uid":1}}}`))
	check := func(t *testing.T, vm VM, err error) {
		if err != nil {
			if !errors.Is(err, ErrUnreadable) && !errors.Is(err, ErrNoVM) {
				t.Fatal(err)
			}
			return
		}
		seen, last := map[string]bool{}, -1
		for _, p := range vm.PVCs {
			if seen[p.Name] || p.Namespace != guest.Namespace || p.Index <= last || len(p.Name) > maxText || len(p.Bus) > maxText {
				t.Fatalf("%+v", vm)
			}
			seen[p.Name], last = true, p.Index
			if p.Size != nil {
				_ = p.Size.String()
			}
		}
		if len(vm.PVCs)+len(vm.Missing) > maxVolumes {
			t.Fatalf("%d volumes", len(vm.PVCs)+len(vm.Missing))
		}
	}
	f.Fuzz(func(t *testing.T, whole, vm, pvc []byte) {
		got, err := contentsVM(bytes.NewReader(whole), guest)
		check(t, got, err)
		// The objects by themselves, since a mutated archive's checksums seldom fit.
		got, err = contentsVM(bytes.NewReader(archiveOf(t, file{root.name, string(pvc)}, file{vmPath, string(vm)})), guest)
		check(t, got, err)
	})
}
