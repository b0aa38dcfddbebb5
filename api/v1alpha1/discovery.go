package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// VirtualMachineBackupsDiscovery finds the Velero backups that hold a virtual machine, from the
// backups' metadata; nothing is restored. It lives in Velero's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=virtualmachinebackupsdiscoveries,shortName=vmbd,categories=oadp
// +kubebuilder:printcolumn:name="VM",type=string,JSONPath=".spec.virtualMachineName"
// +kubebuilder:printcolumn:name="VMNS",type=string,JSONPath=".spec.virtualMachineNamespace"
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=".status.phase"
// +kubebuilder:printcolumn:name="Valid",type=integer,JSONPath=".status.discoveryStats.completed"
// +kubebuilder:printcolumn:name="Invalid",type=integer,JSONPath=".status.discoveryStats.skipped"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=".metadata.creationTimestamp"
type VirtualMachineBackupsDiscovery struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineBackupsDiscoverySpec   `json:"spec"`
	Status VirtualMachineBackupsDiscoveryStatus `json:"status,omitempty"`
}

// VirtualMachineBackupsDiscoveryList is a list of discoveries.
//
// +kubebuilder:object:root=true
type VirtualMachineBackupsDiscoveryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualMachineBackupsDiscovery `json:"items"`
}

// VirtualMachineBackupsDiscoverySpec names the virtual machine and which backups to look at.
// With requestedBackups alone just these are looked at; with a time range those that were taken
// in it; with both the union; with neither every backup of the namespace.
//
// +kubebuilder:validation:XValidation:rule="!has(self.startTime) || !has(self.endTime) || (size(self.startTime) == 10 ? timestamp(self.startTime + 'T00:00:00Z') : timestamp(self.startTime)) <= (size(self.endTime) == 10 ? timestamp(self.endTime + 'T23:59:59Z') : timestamp(self.endTime))",message="startTime must not be after endTime"
type VirtualMachineBackupsDiscoverySpec struct {
	// Name of the virtual machine.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	VirtualMachineName string `json:"virtualMachineName"`

	// Namespace of the virtual machine at the time of the backups.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	VirtualMachineNamespace string `json:"virtualMachineNamespace"`

	// Only backups taken at or after this time: YYYY-MM-DD (which means 00:00:00Z of that day) or
	// RFC 3339, such as 2026-04-12T22:00:00Z.
	//
	// +optional
	StartTime *Time `json:"startTime,omitempty"`

	// Only backups taken at or before this time: YYYY-MM-DD (which means 23:59:59Z of that day)
	// or RFC 3339.
	//
	// +optional
	EndTime *Time `json:"endTime,omitempty"`

	// Names of backups to look at.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	RequestedBackups []string `json:"requestedBackups,omitempty"`

	// Further ranges of time; a backup in any of them is looked at. An addition to OADP's API.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	TimeRanges []TimeRange `json:"timeRanges,omitempty"`

	// Also look at the oldest backup of the namespace that holds the virtual machine. An addition
	// to OADP's API.
	//
	// +optional
	IncludeFirst bool `json:"includeFirst,omitempty"`
}

// Time is a day, YYYY-MM-DD, or a moment in RFC 3339.
//
// +kubebuilder:validation:MinLength=10
// +kubebuilder:validation:MaxLength=35
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))?$')",message="use YYYY-MM-DD or RFC 3339, such as 2026-04-12T22:00:00Z"
// +kubebuilder:validation:XValidation:rule="(size(self) == 10 ? timestamp(self + 'T00:00:00Z') : timestamp(self)) > timestamp('0001-01-01T00:00:00Z')",message="there is no such day"
type Time string

// TimeRange is a range of time; a missing end is open.
//
// +kubebuilder:validation:XValidation:rule="has(self.startTime) || has(self.endTime)",message="set startTime, endTime or both"
// +kubebuilder:validation:XValidation:rule="!has(self.startTime) || !has(self.endTime) || (size(self.startTime) == 10 ? timestamp(self.startTime + 'T00:00:00Z') : timestamp(self.startTime)) <= (size(self.endTime) == 10 ? timestamp(self.endTime + 'T23:59:59Z') : timestamp(self.endTime))",message="startTime must not be after endTime"
type TimeRange struct {
	// As spec.startTime.
	//
	// +optional
	StartTime *Time `json:"startTime,omitempty"`
	// As spec.endTime.
	//
	// +optional
	EndTime *Time `json:"endTime,omitempty"`
}

// DiscoveryPhase is how far a discovery is.
//
// +kubebuilder:validation:Enum=New;InProgress;Completed;PartiallyFailed;Failed
type DiscoveryPhase string

// The phases of a discovery.
const (
	DiscoveryNew             DiscoveryPhase = "New"
	DiscoveryInProgress      DiscoveryPhase = "InProgress"
	DiscoveryCompleted       DiscoveryPhase = "Completed"       // all candidates were looked at
	DiscoveryPartiallyFailed DiscoveryPhase = "PartiallyFailed" // some could not be verified, at least one is valid
	DiscoveryFailed          DiscoveryPhase = "Failed"          // nothing usable, or an invalid spec
)

// VirtualMachineBackupsDiscoveryStatus is what was found so far.
type VirtualMachineBackupsDiscoveryStatus struct {
	// +optional
	Phase DiscoveryPhase `json:"phase,omitempty"`

	// Generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Progressing, Available, Degraded and Ready.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Backups that hold the virtual machine and can be restored, oldest first.
	//
	// +optional
	// +listType=atomic
	ValidBackups []DiscoveredBackup `json:"validBackups,omitempty"`

	// Backups that were looked at and cannot be used.
	//
	// +optional
	// +listType=atomic
	InvalidBackups []InvalidBackup `json:"invalidBackups,omitempty"`

	// How far each candidate is.
	//
	// +optional
	// +listType=atomic
	BackupDiscoveryProgress []BackupProgress `json:"backupDiscoveryProgress,omitempty"`

	// +optional
	DiscoveryStats *DiscoveryStats `json:"discoveryStats,omitempty"`
}

// DiscoveredBackup is a backup and the virtual machine's volumes in it.
type DiscoveredBackup struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// When the backup was taken.
	//
	// +optional
	CreatedAt *metav1.Time `json:"createdAt,omitempty"`
	// +optional
	// +listType=atomic
	PVCs []DiscoveredPVC `json:"pvcs,omitempty"`
}

// DiscoveredPVC is a volume of the virtual machine as a backup holds it.
type DiscoveredPVC struct {
	// UID of the PVC when it was backed up. Empty where the backup's KubeVirt plugin did not
	// record it; such a volume cannot be selected for a restore.
	//
	// +optional
	PVCUID types.UID `json:"pvcUID,omitempty"`
	// +optional
	PVCName string `json:"pvcName,omitempty"`
	// +optional
	PVCNamespace string `json:"pvcNamespace,omitempty"`
	// Requested size.
	//
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
}

// InvalidBackup is a backup that cannot be used and why.
type InvalidBackup struct {
	DiscoveredBackup `json:",inline"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
}

// BackupStatus is how far the look at one backup is.
//
// +kubebuilder:validation:Enum=New;InProgress;Completed;Skipped;Failed
type BackupStatus string

// The states of a candidate.
const (
	BackupNew        BackupStatus = "New"
	BackupInProgress BackupStatus = "InProgress"
	BackupCompleted  BackupStatus = "Completed" // it is valid
	BackupSkipped    BackupStatus = "Skipped"   // it does not hold the virtual machine, or is not complete
	BackupFailed     BackupStatus = "Failed"    // it could not be verified
)

// BackupProgress is the progress of one candidate.
type BackupProgress struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// +optional
	CreatedAt *metav1.Time `json:"createdAt,omitempty"`
	Status    BackupStatus `json:"status"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// +optional
	LastUpdated *metav1.Time `json:"lastUpdated,omitempty"`
}

// DiscoveryStats counts the candidates.
type DiscoveryStats struct {
	TotalCandidates int32 `json:"totalCandidates"`
	Pending         int32 `json:"pending"`
	InProgress      int32 `json:"inProgress"`
	Completed       int32 `json:"completed"`
	Skipped         int32 `json:"skipped"`
	Failed          int32 `json:"failed"`
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
}
