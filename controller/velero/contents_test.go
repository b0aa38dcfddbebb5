package velero

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"k8s.io/apimachinery/pkg/types"
)

var guest = types.NamespacedName{Namespace: "shop", Name: "db"}

// file is an entry of an archive.
type file struct{ name, content string }

func archiveOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.content)), Mode: 0o755, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const vmPath = "resources/virtualmachines.kubevirt.io/namespaces/shop/db.json"

func pvcFile(namespace, name, spec string) file {
	return file{"resources/persistentvolumeclaims/namespaces/" + namespace + "/" + name + ".json",
		fmt.Sprintf(`{"kind":"PersistentVolumeClaim","metadata":{"name":%q,"labels":{"app":"x","velero.kubevirt.io/pvc-uid":"uid-%s"}},"spec":%s}`, name, name, spec)}
}

// vmSpec has a disk of each kind, one that is plugged in, and volumes that are none of the guest's data.
const vmSpec = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"db"},"spec":{"template":{"spec":{
 "domain":{"devices":{"disks":[
  {"name":"root","disk":{"bus":"virtio"},"bootOrder":2},
  {"name":"cloudinit","disk":{"bus":"virtio"}},
  {"name":"logs","lun":{"bus":"scsi"}},
  {"name":"iso","cdrom":{"bus":"sata"},"bootOrder":1},
  {"name":"later","disk":{}}]}},
 "volumes":[
  {"name":"cloudinit","cloudInitNoCloud":{"userData":"x"}},
  {"name":"shared","persistentVolumeClaim":{"claimName":"files"}},
  {"name":"later","persistentVolumeClaim":{"claimName":"plugged","hotpluggable":true}},
  {"name":"iso","dataVolume":{"name":"install"}},
  {"name":"logs","persistentVolumeClaim":{"claimName":"log"}},
  {"name":"dump","memoryDump":{"claimName":"core"}},
  {"name":"root","dataVolume":{"name":"root"}}]}}}}`

const block5 = `{"volumeMode":"Block","storageClassName":"fast","resources":{"requests":{"storage":"5Gi"}}}`

// describe is a VM as one line a claim.
func describe(vm VM) string {
	var b strings.Builder
	for _, p := range vm.PVCs {
		size := "?"
		if p.Size != nil {
			size = p.Size.String()
		}
		fmt.Fprintf(&b, "%d %s/%s %s %s %s %q %q\n", p.Index, p.Namespace, p.Name, p.UID, size, p.Mode, p.StorageClass, p.Bus)
	}
	if len(vm.Missing) > 0 {
		fmt.Fprintf(&b, "missing %v\n", vm.Missing)
	}
	return b.String()
}

func TestContents(t *testing.T) {
	t.Parallel()
	claims := []file{
		pvcFile("shop", "root", block5), pvcFile("shop", "log", `{"resources":{"requests":{"storage":"1500M"}}}`),
		pvcFile("shop", "install", block5), pvcFile("shop", "plugged", `{}`), pvcFile("shop", "files", block5),
	}
	others := []file{
		pvcFile("shop", "other", block5), pvcFile("bank", "root", `{"volumeMode":"Filesystem"}`),
		{"resources/virtualmachines.kubevirt.io/namespaces/bank/db.json", `{"spec":{}}`},
		{"resources/pods/namespaces/shop/db.json", `not even JSON`}, {"metadata/version", "1.1.0"},
	}
	const want = `0 shop/root uid-root 5Gi Block "fast" "virtio"
1 shop/log uid-log 1500M Filesystem "" "scsi"
2 shop/install uid-install 5Gi Block "fast" "sata"
3 shop/plugged uid-plugged ? Filesystem "" ""
4 shop/files uid-files 5Gi Block "fast" ""
`
	for _, path := range []string{vmPath,
		"resources/virtualmachines.kubevirt.io/v1-preferredversion/namespaces/shop/db.json",
		"resources/virtualmachines.kubevirt.io/v1alpha3/namespaces/shop/db.json"} {
		all := append(append([]file{{path, vmSpec}}, claims...), others...)
		for range 20 { // any order
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			vm, err := contentsVM(bytes.NewReader(archiveOf(t, all...)), guest)
			if got := describe(vm); err != nil || got != want {
				t.Fatalf("%v:\n%s", err, got)
			}
		}
	}
}

// The same claim under several versions, a missing one, and a virtual machine that is not there.
func TestContentsIncomplete(t *testing.T) {
	t.Parallel()
	root := pvcFile("shop", "root", block5)
	again := file{strings.Replace(root.name, "claims/", "claims/v1-preferredversion/", 1), root.content}
	vm, err := contentsVM(bytes.NewReader(archiveOf(t, again, root, file{vmPath, vmSpec}, file{"resources/virtualmachines.kubevirt.io/v1-preferredversion/namespaces/shop/db.json", vmSpec})), guest)
	if want := "0 shop/root uid-root 5Gi Block \"fast\" \"virtio\"\nmissing [log install plugged files]\n"; err != nil || describe(vm) != want {
		t.Errorf("%v:\n%s", err, describe(vm))
	}
	if _, err := contentsVM(bytes.NewReader(archiveOf(t, root)), guest); !errors.Is(err, ErrNoVM) {
		t.Errorf("no virtual machine: %v", err)
	}
	// A claim without the plugin's label is listed, for the user to see what cannot be restored.
	vm, err = contentsVM(bytes.NewReader(archiveOf(t, file{root.name, `{"spec":{"resources":{"requests":{"storage":"1Gi"}}}}`}, file{vmPath, vmSpec})), guest)
	if err != nil || len(vm.PVCs) != 1 || vm.PVCs[0].UID != "" {
		t.Errorf("without a label: %v %+v", err, vm)
	}
}

func TestContentsRefused(t *testing.T) {
	t.Parallel()
	var million strings.Builder
	million.WriteString(`{"spec":{"template":{"spec":{"volumes":[{}`)
	for million.Len() < 1<<20 {
		million.WriteString(",{}")
	}
	million.WriteString("]}}}}")
	var crowd []file
	for i := range maxClaims + 1 {
		crowd = append(crowd, pvcFile("shop", fmt.Sprint("c", i), `{}`))
	}
	whole := archiveOf(t, pvcFile("shop", "root", block5), file{vmPath, vmSpec})
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"a huge entry":     {archiveOf(t, file{vmPath, strings.Repeat(" ", maxEntry+1)}), "more than 2097152 bytes"},
		"a million disks":  {archiveOf(t, file{vmPath, million.String()}), "more than 256 disks or volumes"},
		"no JSON":          {archiveOf(t, file{vmPath, "<xml/>"}), "VirtualMachine shop/db"},
		"a deep object":    {archiveOf(t, file{vmPath, strings.Repeat(`{"a":`, 200_000)}), "max depth"},
		"a wrong claim":    {archiveOf(t, file{"resources/persistentvolumeclaims/namespaces/shop/root.json", "[]"}), "PersistentVolumeClaim shop/root"},
		"too many claims":  {archiveOf(t, crowd...), "more than 16384 PersistentVolumeClaims"},
		"cut in an entry":  {whole[:700], "unexpected EOF"},
		"cut in a header":  {whole[:200], "unexpected EOF"},
		"no archive":       {bytes.Repeat([]byte("no archive"), 100), "invalid tar header"},
		"a long disk name": {archiveOf(t, file{vmPath, `{"spec":{"template":{"spec":{"volumes":[{"name":"x","dataVolume":{"name":"` + strings.Repeat("y", 300) + `"}}]}}}}`}), "more than 253 bytes"},
	} {
		_, err := contentsVM(bytes.NewReader(c.in), guest)
		if !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// An empty archive is one without the virtual machine: Velero writes it for an empty namespace.
	if _, err := contentsVM(bytes.NewReader(archiveOf(t)), guest); !errors.Is(err, ErrNoVM) {
		t.Errorf("an empty archive: %v", err)
	}
}

// Sizes that Go's parser would work on for hours, or that are none, are left out.
func TestSizes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"10Gi"`: "10Gi", `"1.5G"`: "1500M", `"3e9"`: "3e9", `5000`: "5k", `"1e999999999"`: "", `"1e-999999999"`: "",
		`"-1"`: "", `""`: "", `null`: "", `"much"`: "", `{"x":1}`: "", `1e300`: "",
	} {
		p, err := claim([]byte(`{"spec":{"resources":{"requests":{"storage":` + in + `}}}}`))
		got := ""
		if p.Size != nil {
			got = p.Size.String()
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
}

// endless is a compressed archive that is made while it is read: claims and pods of many
// namespaces, and the virtual machine at the very end.
func endless(size int64) io.Reader {
	r, w := io.Pipe()
	go func() {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		t := tar.NewWriter(z)
		put := func(name string, b []byte) error {
			if err := t.WriteHeader(&tar.Header{Name: name, Size: int64(len(b)), Mode: 0o755}); err != nil {
				return err
			}
			_, err := t.Write(b)
			return err
		}
		noise := bytes.Repeat([]byte(`{"kind":"Pod","metadata":{"annotations":{"x":"0123456789"}}},`), 4<<10)
		var err error
		for i := 0; err == nil && size > 0; i++ {
			err = put(fmt.Sprintf("resources/pods/namespaces/shop/p%d.json", i), noise)
			size -= int64(len(noise))
			if err == nil && i%4 == 0 {
				f := pvcFile([]string{"shop", "bank"}[i/4%2], fmt.Sprint("c", i), block5)
				err = put(f.name, []byte(f.content))
			}
		}
		if err == nil {
			err = put(vmPath, []byte(strings.ReplaceAll(vmSpec, `"claimName":"log"`, `"claimName":"c16"`)))
		}
		_ = t.Close()
		_ = z.Close()
		w.CloseWithError(err)
	}()
	return r
}

// A large backup costs no more memory than a small one: what the heap grows to while 1 GiB passes.
func TestContentsMemory(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak uint64
	in := endless(size)
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	sampled := readerFunc(func() func(p []byte) (int, error) {
		var n int64
		return func(p []byte) (int, error) {
			k, err := z.Read(p)
			if n += int64(k); n > 16<<20 {
				n = 0
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
			return k, err
		}
	}())
	vm, err := contentsVM(sampled, guest)
	if err != nil || len(vm.PVCs) != 1 || vm.PVCs[0].Name != "c16" {
		t.Fatalf("%v %+v", err, vm)
	}
	grown := int64(peak) - int64(before.HeapAlloc)
	t.Logf("%d MiB of contents: the heap grew by %d KiB at most", size>>20, grown>>10)
	if grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
