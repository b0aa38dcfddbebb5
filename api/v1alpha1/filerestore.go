package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// VirtualMachineFileRestore serves the files of a virtual machine's backups, read-only, by SSH
// (sftp, scp, rsync) and by HTTPS (file browser and API). Deleting it removes everything that was
// made for it. It lives in Velero's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=virtualmachinefilerestores,shortName=vmfr,categories=oadp
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=".status.phase"
// +kubebuilder:printcolumn:name="Discovery",type=string,JSONPath=".spec.backupsDiscoveryRef"
// +kubebuilder:printcolumn:name="Pod-NS",type=string,JSONPath=".status.createdNamespace"
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=".status.fileServingInfo.podName"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=".metadata.creationTimestamp"
type VirtualMachineFileRestore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineFileRestoreSpec   `json:"spec"`
	Status VirtualMachineFileRestoreStatus `json:"status,omitempty"`
}

// VirtualMachineFileRestoreList is a list of file restores.
//
// +kubebuilder:object:root=true
type VirtualMachineFileRestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualMachineFileRestore `json:"items"`
}

// VirtualMachineFileRestoreSpec says which backups to serve, where and to whom. What decides
// which objects are made cannot be changed afterwards: make another restore instead.
//
// +kubebuilder:validation:XValidation:rule="!has(self.restoreNamespace) || !has(self.namespacePrefix)",message="namespacePrefix is for a temporary namespace: it cannot be set with restoreNamespace"
// +kubebuilder:validation:XValidation:rule="has(self.restoreNamespace) == has(oldSelf.restoreNamespace) && has(self.namespacePrefix) == has(oldSelf.namespacePrefix)",message="restoreNamespace and namespacePrefix cannot be changed: make another VirtualMachineFileRestore"
// +kubebuilder:validation:XValidation:rule="has(self.selectedBackups) == has(oldSelf.selectedBackups)",message="selectedBackups cannot be changed: make another VirtualMachineFileRestore"
type VirtualMachineFileRestoreSpec struct {
	// Name of a VirtualMachineBackupsDiscovery in the same namespace.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="backupsDiscoveryRef cannot be changed: make another VirtualMachineFileRestore"
	BackupsDiscoveryRef string `json:"backupsDiscoveryRef"`

	// Names of backups, each among the discovery's validBackups. Empty: all of them.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="selectedBackups cannot be changed: make another VirtualMachineFileRestore"
	SelectedBackups []string `json:"selectedBackups,omitempty"`

	// An existing namespace for what serves the files. Empty: a temporary one is made and removed.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="restoreNamespace cannot be changed: make another VirtualMachineFileRestore"
	RestoreNamespace string `json:"restoreNamespace,omitempty"`

	// Begins the temporary namespace's name: <prefix>-<vm-namespace>-<vm-name>-<suffix>, cut to 63
	// characters without losing the suffix.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="namespacePrefix cannot be changed: make another VirtualMachineFileRestore"
	NamespacePrefix string `json:"namespacePrefix,omitempty"`

	// How the files are served. Absent: by the file browser alone.
	//
	// +optional
	FileAccess *FileAccess `json:"fileAccess,omitempty"`

	// The restore deletes itself after this long, at least 10m, such as 48h. Absent: never. An
	// addition to OADP's API.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}([.][0-9]{1,9})?(ns|us|ms|s|m|h))+$') && duration(self) >= duration('10m')",message="ttl must be at least 10m, in hours, minutes and seconds, such as 48h or 1h30m"
	TTL *metav1.Duration `json:"ttl,omitempty"`

	// A Secret whose values are keys or passphrases of LUKS volumes; each is tried. An addition to
	// OADP's API.
	//
	// +optional
	DiskKeysSecretRef *SecretReference `json:"diskKeysSecretRef,omitempty"`
}

// FileAccess says how the files are served.
//
// +kubebuilder:validation:XValidation:rule="has(self.ssh) || has(self.fileBrowser)",message="set at least one of ssh and fileBrowser"
type FileAccess struct {
	// +optional
	SSH *SSHAccess `json:"ssh,omitempty"`
	// +optional
	FileBrowser *FileBrowserAccess `json:"fileBrowser,omitempty"`
}

// SSHAccess serves by sftp, scp and rsync on port 2222, with keys only. The Secret wins over the
// inline fields; with neither a key pair is generated into a Secret.
type SSHAccess struct {
	// +optional
	// +kubebuilder:default=oadp
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]*$`
	Username string `json:"username,omitempty"`

	// One or several lines of authorized_keys.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	// +kubebuilder:validation:XValidation:rule="self.matches('(^|[ \\n])(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\\\\.com|sk-ecdsa-sha2-nistp256@openssh\\\\.com) +AAAA[0-9A-Za-z+/]+=*')",message="publicKey must hold a key such as 'ssh-ed25519 AAAA... name'"
	PublicKey string `json:"publicKey,omitempty"`

	// A Secret with the key authorized_keys and optionally username.
	//
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`

	// Public keys of certificate authorities whose user certificates are accepted for the user
	// name as a principal, one a line. An addition to OADP's API.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	TrustedUserCA string `json:"trustedUserCA,omitempty"`
}

// FileBrowserAccess serves by HTTPS on port 8443, with a user name and a password.
type FileBrowserAccess struct {
	// A Secret with the key password (at least 12 characters) and optionally username (default
	// oadp). Absent: both are generated into a Secret.
	//
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`

	// Reachable from outside the cluster: a Route on OpenShift, an Ingress elsewhere.
	//
	// +optional
	ExposeExternally bool `json:"exposeExternally,omitempty"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Default: Velero's namespace. A Secret of another namespace is copied to where it is used.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// FileRestorePhase is how far a file restore is.
//
// +kubebuilder:validation:Enum=New;InProgress;Completed;PartiallyFailed;Failed;Deleting
type FileRestorePhase string

// The phases of a file restore.
const (
	FileRestoreNew             FileRestorePhase = "New"
	FileRestoreInProgress      FileRestorePhase = "InProgress"
	FileRestoreCompleted       FileRestorePhase = "Completed"       // every disk is served
	FileRestorePartiallyFailed FileRestorePhase = "PartiallyFailed" // some are
	FileRestoreFailed          FileRestorePhase = "Failed"          // none is, or an invalid spec
	FileRestoreDeleting        FileRestorePhase = "Deleting"
)

// VirtualMachineFileRestoreStatus is how far the restore is and how to reach the files.
type VirtualMachineFileRestoreStatus struct {
	// +optional
	Phase FileRestorePhase `json:"phase,omitempty"`

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

	// The namespace that serves the files, where it was made for this restore.
	//
	// +optional
	CreatedNamespace string `json:"createdNamespace,omitempty"`

	// Each volume of the virtual machine and its restores, one a backup.
	//
	// +optional
	// +listType=atomic
	PVCRestores []PVCRestore `json:"pvcRestores,omitempty"`

	// Where the files are, once they are served.
	//
	// +optional
	FileServingInfo *FileServingInfo `json:"fileServingInfo,omitempty"`

	// When spec.ttl ends. An addition to OADP's API.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// PVCRestore is one volume over all backups.
type PVCRestore struct {
	// +optional
	PVCUID types.UID `json:"pvcUID,omitempty"`
	// +optional
	PVCName string `json:"pvcName,omitempty"`
	// +optional
	PVCNamespace string `json:"pvcNamespace,omitempty"`
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// +optional
	// +listType=atomic
	Restores []BackupRestore `json:"restores,omitempty"`
}

// RestoreState is how a volume stands in one backup.
//
// +kubebuilder:validation:Enum=available;processing;failed;backup-deleted;backup-missing;unsupported-plugin;extraction-failed
type RestoreState string

// The states of a volume in one backup.
const (
	RestoreAvailable         RestoreState = "available"
	RestoreProcessing        RestoreState = "processing"
	RestoreFailed            RestoreState = "failed"
	RestoreBackupDeleted     RestoreState = "backup-deleted"     // after the discovery
	RestoreBackupMissing     RestoreState = "backup-missing"     // its content is not in the object storage
	RestoreUnsupportedPlugin RestoreState = "unsupported-plugin" // the KubeVirt plugin recorded no UID
	RestoreExtractionFailed  RestoreState = "extraction-failed"  // the backup's metadata cannot be read
)

// BackupRestore is one volume in one backup.
type BackupRestore struct {
	VeleroBackupName      string `json:"veleroBackupName"`
	VeleroBackupNamespace string `json:"veleroBackupNamespace"`
	// When the backup was taken.
	//
	// +optional
	Timestamp *metav1.Time `json:"timestamp,omitempty"`
	State     RestoreState `json:"state"`
	// +optional
	VeleroRestoreName string `json:"veleroRestoreName,omitempty"`
	// +optional
	VeleroRestoreNamespace string `json:"veleroRestoreNamespace,omitempty"`
	// Phase of the Velero Restore.
	//
	// +optional
	Phase string `json:"phase,omitempty"`
	// +optional
	CreatedAt *metav1.Time `json:"createdAt,omitempty"`
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	FailureReason string `json:"failureReason,omitempty"`
	// Bytes that Velero's data mover has written. An addition to OADP's API.
	//
	// +optional
	BytesDone int64 `json:"bytesDone,omitempty"`
	// Bytes that it will write. An addition to OADP's API.
	//
	// +optional
	TotalBytes int64 `json:"totalBytes,omitempty"`
}

// FileServingInfo is how to reach the files.
type FileServingInfo struct {
	// +optional
	PodName string `json:"podName,omitempty"`
	// +optional
	SSH *SSHServing `json:"ssh,omitempty"`
	// +optional
	FileBrowser *FileBrowserServing `json:"fileBrowser,omitempty"`
}

// SSHServing is how to reach the files by SSH.
type SSHServing struct {
	// Such as ssh://<service>.<namespace>.svc.cluster.local:2222.
	//
	// +optional
	ClusterAccess string `json:"clusterAccess,omitempty"`
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`
	// The server's public key, as a line of known_hosts without the host. An addition to OADP's
	// API.
	//
	// +optional
	HostKey string `json:"hostKey,omitempty"`
}

// FileBrowserServing is how to reach the files by HTTPS.
type FileBrowserServing struct {
	// Such as https://<service>.<namespace>.svc.cluster.local:8443.
	//
	// +optional
	ClusterAccess string `json:"clusterAccess,omitempty"`
	// Where exposeExternally is set.
	//
	// +optional
	PublicAccess string `json:"publicAccess,omitempty"`
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`
	// Certificates that the server's is signed by, in PEM. An addition to OADP's API.
	//
	// +optional
	CABundle string `json:"caBundle,omitempty"`
	// SHA-256 of the server's certificate, in hex with colons. An addition to OADP's API.
	//
	// +optional
	Fingerprint string `json:"fingerprint,omitempty"`
}
