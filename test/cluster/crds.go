package cluster

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	velerov1crds "github.com/vmware-tanzu/velero/config/crd/v1/crds"
	velerov2crds "github.com/vmware-tanzu/velero/config/crd/v2alpha1/crds"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// snapshotModule is where the CRDs of VolumeSnapshots come from.
const snapshotModule = "github.com/kubernetes-csi/external-snapshotter/client/v8"

// veleroCRDs are those that `velero install` would install. They are copies: whoever creates an
// object writes into it what the server says, which the next server would not take.
func veleroCRDs() []*apiextensionsv1.CustomResourceDefinition {
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, crd := range slices.Concat(velerov1crds.CRDs, velerov2crds.CRDs) {
		all = append(all, crd.DeepCopy())
	}
	return all
}

// CRDs are all that Velero, CSI's snapshots and KubeVirt add to a cluster; KubeVirt's are
// stand-ins.
func CRDs() (envtest.CRDInstallOptions, error) {
	files, err := snapshotCRDs()
	return envtest.CRDInstallOptions{CRDs: append(veleroCRDs(), kubevirtCRDs()...), Paths: files}, err
}

// snapshotCRDs are the files of those of the API group snapshot.storage.k8s.io, as its module has them.
func snapshotCRDs() ([]string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", snapshotModule)
	cmd.Dir = Module{}.source()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "snapshot.storage.k8s.io_*.yaml"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no CRDs", snapshotModule)
	}
	return files, err
}

// kubevirtCRDs are stand-ins for KubeVirt's and CDI's: the kinds, with any content.
func kubevirtCRDs() []*apiextensionsv1.CustomResourceDefinition {
	return []*apiextensionsv1.CustomResourceDefinition{
		anyCRD("kubevirt.io", "v1", "VirtualMachine", "vm"),
		anyCRD("kubevirt.io", "v1", "VirtualMachineInstance", "vmi"),
		anyCRD("cdi.kubevirt.io", "v1beta1", "DataVolume", "dv"),
	}
}

func anyCRD(group, version, kind, short string) *apiextensionsv1.CustomResourceDefinition {
	singular, keep := strings.ToLower(kind), true
	content := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: singular + "s." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{
				Kind: kind, ListKind: kind + "List", Singular: singular, Plural: singular + "s", ShortNames: []string{short, short + "s"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": content, "status": content}}},
			}},
		},
	}
}
