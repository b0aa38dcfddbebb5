// Package velero is the only room that knows Velero.
package velero

import (
	_ "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	_ "github.com/openshift/api/route/v1"
	_ "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	_ "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	_ "k8s.io/api/core/v1"
	_ "sigs.k8s.io/controller-runtime"
)
