package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
)

const (
	agentProgram = "/vmfr-agent"
	container    = "holder"
	// dirAPI is where client-go looks for a pod's own account.
	dirAPI = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is how long a token is good for; the kubelet renews it after 80 % of this.
	tokenSeconds = 3600
	// kvmGroup owns the image files that KubeVirt writes (qemu's user and group, mode 0660).
	kvmGroup = 107
	// graceSeconds is for the agent to end the session's mounts, at most.
	graceSeconds = 30
	secretMode   = 0o400

	annotationConfig = "vmfr.io/config-hash"
)

// holders are the disk holders of the backups that are to be attached, and the front holder. A
// disk holder comes first: the front holder has to go where the disks are.
func (b *builder) holders(doc *session.Session) (out []client.Object, err error) {
	for i := range b.in.Backups {
		bk := &b.in.Backups[i]
		if !bk.Attach || !slices.ContainsFunc(bk.Disks, func(d Disk) bool { return d.Claim != "" }) {
			continue
		}
		d, err := b.diskHolder(bk, doc)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	front, err := b.frontHolder(doc)
	if err != nil {
		return nil, err
	}
	return append(out, front), nil
}

// frontHolder has the listeners and no disk.
func (b *builder) frontHolder(doc *session.Session) (client.Object, error) {
	at := b.places()[0]
	pod := b.pod(at, []string{session.KeyJoin, session.KeyHostKey}, "--front")
	c := &pod.Containers[0]
	for _, p := range b.ports() {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: p.name, ContainerPort: p.number, Protocol: corev1.ProtocolTCP})
	}
	if b.in.SSH() != nil {
		// The user's private key stays out of the pod.
		keys := []string{session.KeyUsername, session.KeyAuthorizedKeys}
		if b.m.SSH.TrustedCA != nil {
			keys = append(keys, session.KeyTrustedCA)
		}
		mountSecret(pod, "ssh", b.names.SSH(), session.DirSSH, keys...)
	}
	if b.in.Browser() != nil {
		mountSecret(pod, "browser", b.names.Browser(), session.DirBrowser)
		mountSecret(pod, "tls", b.names.TLS(), session.DirTLS, session.KeyCertificate, session.KeyPrivateKey)
	}
	if b.m.DiskKeys != nil {
		mountSecret(pod, "diskkeys", b.names.DiskKeys(), session.DirDiskKeys)
	}
	// The report is updated with the account's own token; the kubelet's automatic one would come
	// with a year's validity on some clusters.
	mount(pod, "api", dirAPI, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(secretMode)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(tokenSeconds)), Path: corev1.ServiceAccountTokenKey}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
			Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
		}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path: corev1.ServiceAccountNamespaceKey, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
		}}}},
	}}})
	// Which front ends there are decides the listeners, so all of the document counts.
	return b.deployment(at, PartFront, pod, doc)
}

// diskHolder attaches one backup's volumes.
func (b *builder) diskHolder(bk *Backup, doc *session.Session) (client.Object, error) {
	at := place{b.names.BackupNamespace(bk.Number), bk}
	pod := b.pod(at, []string{session.KeyJoin}, "--backup", bk.Name) // it has no use for the SSH host's key
	pod.Affinity.PodAntiAffinity = b.antiAffinity()
	c := &pod.Containers[0]
	for i, d := range bk.Disks {
		if d.Claim == "" {
			continue
		}
		name := "disk-" + strconv.Itoa(i)
		claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: d.Claim, ReadOnly: true}}
		switch d.Mode {
		case session.Block:
			pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: claim})
			c.VolumeDevices = append(c.VolumeDevices, corev1.VolumeDevice{Name: name, DevicePath: session.Device(i)})
		case session.Filesystem:
			mount(pod, name, session.Volume(i), claim)
			if b.cfg.ReadAll {
				c.SecurityContext.Capabilities.Add = []corev1.Capability{"DAC_OVERRIDE"}
			}
		default:
			return nil, fmt.Errorf("plan: backup %s, disk %s: mode %q is neither Block nor Filesystem", bk.Name, d.Name, d.Mode)
		}
	}
	// Other backups do not concern this holder: it restarts for its own disks only.
	part := *doc
	part.Backups = slices.DeleteFunc(slices.Clone(doc.Backups), func(o session.Backup) bool { return o.Name != bk.Name })
	part.SSH, part.Browser = nil, nil
	return b.deployment(at, PartDisks, pod, &part)
}

// pod is what all holders have in common: the way to the agent, the session's document and what it
// needs of the identity.
//
// It cannot run as another user than root (runAsNonRoot): the devices of block volumes belong to
// root in most runtimes, and the token and keys to whoever runs. Root without any capability reads
// what its owner's and group's modes allow, and the supplemental group is the images' own. An
// fsGroup would do more, and write to the restored volume: the kubelet changes every file's group.
func (b *builder) pod(at place, identity []string, part ...string) *corev1.PodSpec {
	command := append([]string{agentProgram, "hold"}, part...)
	pod := &corev1.PodSpec{
		ServiceAccountName: b.names.Object(), AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		// Neither the session's name nor the node's belongs into what clients and programs see.
		Hostname:                      "vmfr",
		TerminationGracePeriodSeconds: new(int64(graceSeconds)),
		NodeSelector:                  b.cfg.NodeSelector, Tolerations: b.cfg.Tolerations, PriorityClassName: b.cfg.PriorityClassName,
		Affinity: b.affinity(),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)), SupplementalGroups: []int64{kvmGroup},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: container, Image: b.cfg.Image, ImagePullPolicy: b.cfg.ImagePullPolicy, Resources: b.cfg.Resources,
			Command: command,
			Env: []corev1.EnvVar{
				fieldEnv("POD_NAME", "metadata.name"), fieldEnv("POD_NAMESPACE", "metadata.namespace"),
				fieldEnv("POD_UID", "metadata.uid"), fieldEnv("NODE_NAME", "spec.nodeName"),
			},
			// Ready: the agent serves what the holder brought. There is no liveness probe: a holder that
			// waits for its agent must not be restarted, since it has the listeners. Exec, since a port
			// for the kubelet would be open to others, too, and the NetworkPolicies keep it closed.
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: append(slices.Clone(command), "--check")}},
				PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3, SuccessThreshold: 1,
			},
			SecurityContext: &corev1.SecurityContext{
				Privileged: new(false), AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		}},
	}
	if b.cfg.SELinuxType != "" {
		pod.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Type: b.cfg.SELinuxType}
	}
	pod.ImagePullSecrets = b.pullWith(at)
	mount(pod, "session", session.DirSession, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: b.names.SessionConfig()}}})
	mountSecret(pod, "identity", b.names.Identity(), session.DirIdentity, identity...)
	// The folder must be there: where no agent runs the pod waits, and its events say for what.
	mount(pod, "agent", session.DirAgent, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: b.cfg.AgentDir, Type: new(corev1.HostPathDirectory)}})
	mount(pod, "token", session.DirToken, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(secretMode)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: session.TokenAudience, ExpirationSeconds: new(int64(tokenSeconds)), Path: session.FileToken}},
	}}})
	return pod
}

// affinity keeps all of a session on the node of its disks: a disk holder beside the others, the
// first one anywhere, since a pod that matches its own rule may go first; the front holder beside
// them, for which it waits.
//
// The namespaces are told by name: schedulers from Kubernetes 1.32 on do not match a
// namespaceSelector when another pod was scheduled, so that a pod that waits for it is tried again
// after five minutes only. All that the session may have are told, so that a holder is the same
// whichever backups there are.
func (b *builder) affinity() *corev1.Affinity {
	last := b.in.Numbers
	for _, bk := range b.in.Backups {
		last = max(last, bk.Number)
	}
	namespaces := make([]string, 0, last)
	for n := 1; n <= last; n++ {
		namespaces = append(namespaces, b.names.BackupNamespace(n))
	}
	return &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: PodLabels(b.in.Restore.UID, PartDisks)},
		Namespaces:    namespaces,
		TopologyKey:   corev1.LabelHostname,
	}}}}
}

// antiAffinity keeps a disk holder from the node where its predecessor still ends, that of the same
// backup: the pod's own namespace. When all holders of a session leave a node that is drained, their
// successors are made at once and cannot go anywhere, since pods that end count as the others beside
// which they have to be. Schedulers from Kubernetes 1.32 on try again when a pod has ended that kept
// another one away, not when one has ended that attracted it: without this rule the successors would
// wait for five minutes.
func (b *builder) antiAffinity() *corev1.PodAntiAffinity {
	return &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: PodLabels(b.in.Restore.UID, PartDisks)},
		TopologyKey:   corev1.LabelHostname,
	}}}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

// mount adds a volume and mounts it read-only.
func mount(pod *corev1.PodSpec, name, dir string, source corev1.VolumeSource) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	c := &pod.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: dir, ReadOnly: true})
}

// mountSecret mounts a Secret read-only, all of it or the given keys.
func mountSecret(pod *corev1.PodSpec, volume, name, dir string, keys ...string) {
	s := &corev1.SecretVolumeSource{SecretName: name, DefaultMode: new(int32(secretMode))}
	for _, k := range keys {
		s.Items = append(s.Items, corev1.KeyToPath{Key: k, Path: k})
	}
	mount(pod, volume, dir, corev1.VolumeSource{Secret: s})
}

// deployment runs one pod, never two: a volume may be attached once, and a session has one front.
func (b *builder) deployment(p place, part string, pod *corev1.PodSpec, doc *session.Session) (client.Object, error) {
	hash, err := configHash(b.m.Identity, doc)
	if err != nil {
		return nil, err
	}
	selector := PodLabels(b.in.Restore.UID, part)
	labels := b.in.labels()
	labels[LabelPart] = part
	meta := b.metaAt(p, b.names.Object())
	meta.Labels[LabelPart] = part
	podMeta := metav1.ObjectMeta{Labels: labels, Annotations: b.metaAt(p, "").Annotations}
	podMeta.Annotations[annotationConfig] = hash
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(1)), RevisionHistoryLimit: new(int32(0)),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{ObjectMeta: podMeta, Spec: *pod},
		},
	}, nil
}

// configHash changes with what a holder reads only when it starts. Credentials and certificates
// are not in it: they are followed while it runs. Of the identity only public
// halves go in, since annotations are read by many.
func configHash(i Identity, doc *session.Session) (string, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("plan: %w", err)
	}
	host, err := i.HostKeyLine()
	if err != nil {
		return "", fmt.Errorf("plan: %w", err)
	}
	h := sha256.New()
	_, _ = h.Write([]byte(host + "\n"))
	_, _ = h.Write(text) // with the session's id, which is the join key's hash
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}
