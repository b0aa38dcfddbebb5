package velero

import (
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddToScheme adds Velero's kinds and those of volume snapshots.
func AddToScheme(s *runtime.Scheme) error {
	b := runtime.NewSchemeBuilder(velerov1.AddToScheme, velerov2alpha1.AddToScheme, snapshotv1.AddToScheme)
	return b.AddToScheme(s)
}
