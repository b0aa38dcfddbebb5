// Package v1alpha1 holds the API's two kinds: VirtualMachineBackupsDiscovery asks which backups
// hold a virtual machine, VirtualMachineFileRestore asks for its files.
//
// Fields, phases, reasons and defaults are those of OADP's API of the same group, so that its
// manifests work unchanged; fields that this project adds are optional and say so. Non-goal: no
// behaviour lives here. The CRDs (deploy/crds) and docs/crds.md are generated from this package.
//
// +kubebuilder:object:generate=true
// +groupName=oadp.openshift.io
package v1alpha1
