package velero

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// Limits of a virtual machine and its claims.
const (
	maxEntry   = 2 << 20 // bytes of one object: etcd takes 1.5 MiB
	maxVolumes = 256     // of one virtual machine: KubeVirt's own limit
	maxText    = 253     // bytes of a name, a bus or a storage class
)

// VM is a virtual machine as a backup holds it.
type VM struct {
	// PVCs are its volumes that are in the backup, in the order of the guest's disks.
	PVCs []PVC
	// Missing are the claims that it names and the backup does not hold.
	Missing []string
}

// PVC is a volume of a virtual machine as a backup holds it.
type PVC struct {
	Name, Namespace string
	// UID is what the KubeVirt plugin recorded when the backup was made; empty: it did not.
	UID          types.UID
	Size         *resource.Quantity // as requested; nil: unknown
	Mode         corev1.PersistentVolumeMode
	StorageClass string // empty: the cluster's default, or none
	// Index counts the virtual machine's volumes from 0, in the order of the guest's disks; those
	// that are not in the backup count too.
	Index int
	Bus   string // virtio, scsi, sata or usb; empty: the virtual machine does not say
}

// volume is a claim of a virtual machine and how the guest sees it.
type volume struct {
	claim, bus string
}

// list decodes an array of at most maxVolumes elements: a small hostile one can have a million.
type list[T any] []T

func (l *list[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("no list: %w", err)
	}
	*l = nil
	for d.More() {
		if len(*l) == maxVolumes {
			return fmt.Errorf("more than %d disks or volumes", maxVolumes)
		}
		var x T
		if err := d.Decode(&x); err != nil {
			return err
		}
		*l = append(*l, x)
	}
	return nil
}

type target struct {
	Bus string `json:"bus"`
}

// vmObject is what is read of a VirtualMachine, of any version of kubevirt.io.
type vmObject struct {
	Spec struct {
		Template struct {
			Spec struct {
				Domain struct {
					Devices struct {
						Disks list[struct {
							Name             string
							Disk, LUN, CDRom *target
						}]
					}
				}
				Volumes list[struct {
					Name                  string
					PersistentVolumeClaim *struct {
						ClaimName string
					}
					DataVolume *struct {
						Name string
					}
				}]
			}
		}
	}
}

// vmVolumes returns the claims of a VirtualMachine in the order of the guest's disks, each once;
// volumes without a disk come last. Volumes that are plugged in while the guest runs are in the
// same lists. A DataVolume's claim has its name. Other volumes (container disks, cloud-init, a
// dump of the memory) hold no data of the guest.
func vmVolumes(object []byte) ([]volume, error) {
	var vm vmObject
	if err := json.Unmarshal(object, &vm); err != nil {
		return nil, err
	}
	spec := &vm.Spec.Template.Spec
	claims := make(map[string]string, len(spec.Volumes)) // by the volume's name
	for _, v := range spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			claims[v.Name] = v.PersistentVolumeClaim.ClaimName
		case v.DataVolume != nil:
			claims[v.Name] = v.DataVolume.Name
		}
	}
	var all []volume
	seen := make(map[string]bool, len(claims))
	add := func(name, bus string) error {
		claim := claims[name]
		if claim == "" || seen[claim] {
			return nil
		}
		if len(claim) > maxText || len(bus) > maxText {
			return fmt.Errorf("a claim's name or bus of more than %d bytes", maxText)
		}
		seen[claim] = true
		all = append(all, volume{claim, bus})
		return nil
	}
	for _, d := range spec.Domain.Devices.Disks {
		var bus string
		for _, t := range []*target{d.Disk, d.LUN, d.CDRom} {
			if t != nil {
				bus = t.Bus
			}
		}
		if err := add(d.Name, bus); err != nil {
			return nil, err
		}
	}
	for _, v := range spec.Volumes {
		if err := add(v.Name, ""); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// quantity is what a size is written as. Go's own parser takes exponents that cost gigabytes.
var quantity = regexp.MustCompile(`^[0-9]{1,20}(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?$`)

// claim parses a PersistentVolumeClaim; its name and namespace are the entry's.
func claim(object []byte) (PVC, error) {
	var o struct {
		Metadata struct {
			Labels struct {
				UID types.UID `json:"velero.kubevirt.io/pvc-uid"`
			}
		}
		Spec struct {
			Resources struct {
				Requests struct {
					Storage any
				}
			}
			StorageClassName string
			VolumeMode       corev1.PersistentVolumeMode
		}
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return PVC{}, err
	}
	p := PVC{UID: o.Metadata.Labels.UID, StorageClass: o.Spec.StorageClassName, Mode: o.Spec.VolumeMode}
	if p.Mode != corev1.PersistentVolumeBlock {
		p.Mode = corev1.PersistentVolumeFilesystem // the API's default
	}
	if len(p.UID) > maxText || len(p.StorageClass) > maxText {
		return PVC{}, fmt.Errorf("a label or storage class of more than %d bytes", maxText)
	}
	var size string
	switch s := o.Spec.Resources.Requests.Storage.(type) {
	case string:
		size = s
	case float64:
		size = fmt.Sprintf("%.0f", s) // hand-made objects; the API server writes strings
	}
	if quantity.MatchString(size) {
		q, err := resource.ParseQuantity(size)
		if err != nil {
			return PVC{}, err
		}
		p.Size = &q
	}
	return p, nil
}
