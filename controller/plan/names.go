package plan

import (
	"crypto/sha256"
	"encoding/base32"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// Lengths of names, in bytes.
const (
	suffixLen = 10 // 26 letters, then nine times 5 bits: 49 bits
	maxLabel  = 63 // RFC 1123
	// maxSession leaves room for a backup's number of three digits and its dash.
	maxSession = maxLabel - 4
)

// maxNumber is the largest number of a backup, three digits. This does not compile if a session may
// have more backups than numbers.
const (
	maxNumber = 999
	_         = uint(maxNumber - session.MaxBackups)
)

// DefaultPrefix begins the names of namespaces without spec.namespacePrefix, and all others.
const DefaultPrefix = "vmfr"

// LabelPart tells a session's pods apart: PartFront or PartDisks.
const (
	LabelPart = "vmfr.io/part"
	PartFront = "front"
	PartDisks = "disks"
)

// Names are the names of a session's objects. They are computed and never stored, so that a
// controller that was restarted finds what it made.
type Names struct {
	Suffix    string // tells sessions apart: ten lower-case letters and digits
	Session   string // the namespace of what serves
	Temporary bool   // that namespace is made for the session and removed with it
	computed  string // what a temporary namespace is called; backups' names begin with it
}

// NewNames computes the names for a file restore. The virtual machine's name may have 253
// characters and dots: both are cut and replaced, and the suffix keeps the names apart.
func NewNames(restore *v1alpha1.VirtualMachineFileRestore, vm session.VM) Names {
	n := Names{Suffix: Suffix(restore.UID), Session: restore.Spec.RestoreNamespace}
	prefix := restore.Spec.NamespacePrefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	n.computed = cut(strings.ReplaceAll(prefix+"-"+vm.Namespace+"-"+vm.Name, ".", "-"), maxSession, n.Suffix)
	if n.Session == "" {
		n.Session, n.Temporary = n.computed, true
	}
	return n
}

// Suffix is a session's part of every name: from the SHA-256 of the UID, a letter first.
func Suffix(uid types.UID) string {
	sum := sha256.Sum256([]byte(uid))
	rest := strings.ToLower(base32.StdEncoding.EncodeToString(sum[1:]))
	return string(rune('a'+sum[0]%26)) + rest[:suffixLen-1]
}

// cut appends the suffix to s, of which it keeps what fits into length bytes.
func cut(s string, length int, suffix string) string {
	if room := length - 1 - len(suffix); len(s) > room {
		s = s[:room]
	}
	return strings.Trim(s, "-") + "-" + suffix
}

// BackupNamespace is the namespace of the n-th backup's volumes and their holder, n from 1.
func (n Names) BackupNamespace(number int) string { return n.computed + "-" + strconv.Itoa(number) }

// Restore is the name of the n-th backup's Velero Restore.
func (n Names) Restore(number int) string { return n.Object() + "-" + strconv.Itoa(number) }

// Object is the name of all objects of which a namespace has one: Deployment, Service, service
// account, Role and RoleBinding, NetworkPolicy, Route or Ingress.
func (n Names) Object() string { return DefaultPrefix + "-" + n.Suffix }

// SessionConfig is the ConfigMap with session.json, in every namespace.
func (n Names) SessionConfig() string { return n.Object() + "-session" }

// Report is the ConfigMap in which the front holder tells what became of the session.
func (n Names) Report() string { return n.Object() + "-report" }

// ServiceCA is the ConfigMap that OpenShift writes its authority's certificate into.
func (n Names) ServiceCA() string { return n.Object() + "-service-ca" }

// Identity is the Secret that makes holders one session, in every namespace.
func (n Names) Identity() string { return n.Object() + "-identity" }

// SSH is the Secret of who may log in by SSH.
func (n Names) SSH() string { return n.Object() + "-ssh" }

// Browser is the Secret of who may log in by HTTPS.
func (n Names) Browser() string { return n.Object() + "-browser" }

// TLS is the Secret with the serving certificate.
func (n Names) TLS() string { return n.Object() + "-tls" }

// DiskKeys is the Secret with the keys of LUKS volumes.
func (n Names) DiskKeys() string { return n.Object() + "-diskkeys" }
