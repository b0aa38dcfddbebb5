package v1alpha1

// Condition types of both kinds.
const (
	ConditionProgressing = "Progressing"
	ConditionAvailable   = "Available"
	ConditionDegraded    = "Degraded"
	ConditionReady       = "Ready"
)

// Reasons of conditions: the words that OADP uses.
const (
	ReasonDiscoveryInProgress           = "DiscoveryInProgress"
	ReasonWaitingForDiscovery           = "WaitingForDiscovery"
	ReasonValidating                    = "Validating"
	ReasonValidationFailed              = "ValidationFailed"
	ReasonPartialValidationFailed       = "PartialValidationFailed"
	ReasonDiscoveringPVCs               = "DiscoveringPVCs"
	ReasonNamespaceReady                = "NamespaceReady"
	ReasonWaitingForRestores            = "WaitingForRestores"
	ReasonRestoresCompleted             = "RestoresCompleted"
	ReasonRestoresCompletedWithFailures = "RestoresCompletedWithFailures"
	ReasonRestoresFailed                = "RestoresFailed"
	ReasonAllRestoresFailed             = "AllRestoresFailed"
	ReasonSomeRestoresFailed            = "SomeRestoresFailed"
	ReasonCredentialsReady              = "CredentialsReady"
	ReasonWaitingForRoute               = "WaitingForRoute"
	ReasonFileServerPending             = "FileServerPending"
	ReasonFileServerCreated             = "FileServerCreated"
	ReasonFileServerAvailable           = "FileServerAvailable"
	ReasonNoValidBackupsFound           = "NoValidBackupsFound"
	ReasonBackupsFound                  = "BackupsFound"
	ReasonNoFailures                    = "NoFailures"
	ReasonPartialFailure                = "PartialFailure"
	ReasonCriticalFailure               = "CriticalFailure"
	ReasonCompleted                     = "Completed"
	ReasonPartiallyFailed               = "PartiallyFailed"
	ReasonNotReady                      = "NotReady"
	ReasonNotStarted                    = "NotStarted"
	ReasonInProgress                    = "InProgress"
	ReasonFailed                        = "Failed"
)

// Labels, annotations and the finalizer.
const (
	LabelOriginUUID     = "oadp.openshift.io/vmfr-origin-uuid"    // on everything made for a file restore
	LabelTempNamespace  = "oadp.openshift.io/vmfr-temp-namespace" // on a namespace that goes with it
	LabelPVCUID         = "velero.kubevirt.io/pvc-uid"            // put on PVCs by the KubeVirt Velero plugin
	AnnotationName      = "oadp.openshift.io/vmfr-origin-name"
	AnnotationNamespace = "oadp.openshift.io/vmfr-origin-namespace"
	AnnotationBackup    = "oadp.openshift.io/backup-name"
	AnnotationVM        = "oadp.openshift.io/vm-name"
	AnnotationVMNS      = "oadp.openshift.io/vm-namespace"
	AnnotationRestore   = "oadp.openshift.io/vmfr-restore" // "true" on each Velero Restore
	Finalizer           = "oadp.openshift.io/vm-file-restore-finalizer"
)

// Defaults of what is served.
const (
	DefaultUsername  = "oadp"
	PortSSH          = 2222
	PortHTTPS        = 8443
	MinPasswordBytes = 12
)
