package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of both kinds.
var GroupVersion = schema.GroupVersion{Group: "oadp.openshift.io", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&VirtualMachineBackupsDiscovery{}, &VirtualMachineBackupsDiscoveryList{},
		&VirtualMachineFileRestore{}, &VirtualMachineFileRestoreList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
})

// AddToScheme adds both kinds to a scheme.
var AddToScheme = schemeBuilder.AddToScheme
