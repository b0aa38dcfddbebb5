package restore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// selection: which backups and discoveries are accepted, and what is said of the others.
func (su *suite) selection(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	phase := func(name string, p v1alpha1.DiscoveryPhase, valid ...v1alpha1.DiscoveredBackup) {
		d := su.discovery(t, w.namespace, name, w.vm, valid...)
		d.Status.Phase = p
		if err := w.client.Status().Update(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	phase("running", v1alpha1.DiscoveryInProgress)
	phase("failed", v1alpha1.DiscoveryFailed)
	old := discoveredBackup(w.namespace, "b1", time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC))
	old.PVCs = []v1alpha1.DiscoveredPVC{{PVCName: "web-root", PVCNamespace: "shop"}}
	phase("old", v1alpha1.DiscoveryPartiallyFailed, old)
	var many []v1alpha1.DiscoveredBackup
	for i := range 101 {
		b := v1alpha1.DiscoveredBackup{Namespace: w.namespace, Name: fmt.Sprintf("many-%d", i)}
		for d := range 10 {
			b.PVCs = append(b.PVCs, v1alpha1.DiscoveredPVC{PVCUID: types.UID(fmt.Sprint(d)), PVCName: fmt.Sprintf("d-%d", d)})
		}
		many = append(many, b)
	}
	phase("many", v1alpha1.DiscoveryCompleted, many...)
	for i, x := range []struct {
		discovery      string
		selected       []string
		phase          v1alpha1.FileRestorePhase
		reason, saying string
	}{
		{"nowhere", nil, v1alpha1.FileRestoreFailed, v1alpha1.ReasonValidationFailed, "there is no VirtualMachineBackupsDiscovery nowhere"},
		{"running", nil, v1alpha1.FileRestoreInProgress, v1alpha1.ReasonWaitingForDiscovery, "is looking for backups"},
		{"failed", nil, v1alpha1.FileRestoreFailed, v1alpha1.ReasonValidationFailed, "the discovery failed failed"},
		{"find", []string{"b7", "b8"}, v1alpha1.FileRestoreFailed, v1alpha1.ReasonNoValidBackupsFound, "none of the backups can be restored"},
		{"old", nil, v1alpha1.FileRestoreFailed, v1alpha1.ReasonNoValidBackupsFound, "none of the backups"},
		{"find", []string{"b2", "b7"}, v1alpha1.FileRestoreInProgress, v1alpha1.ReasonWaitingForRestores, "backups are being restored"},
		{"many", nil, v1alpha1.FileRestoreFailed, v1alpha1.ReasonValidationFailed, "101 backups with 1010 volumes"},
	} {
		v := w.restore(t, fmt.Sprintf("selection-%d", i), func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
			s.BackupsDiscoveryRef, s.SelectedBackups = x.discovery, x.selected
		})
		w.drive(t, v)
		if p := progressing(&v.Status); v.Status.Phase != x.phase || p.reason != x.reason || !strings.Contains(p.message, x.saying) {
			t.Errorf("%s %q: %s: %+v", x.discovery, x.selected, v.Status.Phase, p)
		}
		switch i {
		case 1:
			w.now = w.now.Add(w.r.DiscoveryLimit + time.Hour)
			w.drive(t, v)
			if p := progressing(&v.Status); v.Status.Phase != v1alpha1.FileRestoreFailed || !strings.Contains(p.message, "has not ended within 2h0m0s") {
				t.Errorf("a discovery that never ends: %s: %+v", v.Status.Phase, p)
			}
			w.now = time.Now()
		case 4:
			checkVolume(t, v, "b1", "web-root", want{v1alpha1.RestoreUnsupportedPlugin, "update the plugin"})
		case 5:
			checkVolume(t, v, "b7", "web-root", want{v1alpha1.RestoreBackupMissing, "did not find the backup b7"})
			if n := w.names(v); cluster.Gone(w.client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.BackupNamespace(1)}}) != nil {
				t.Error("the backup that was not found has a namespace")
			}
			w.velero(t, v, 2, velerov1.RestorePhaseCompleted, both...)
			w.drive(t, v)
			w.served(t, v)
			if v.Status.Phase != v1alpha1.FileRestorePartiallyFailed {
				t.Errorf("with a backup that was not found: %s", v.Status.Phase)
			}
		}
	}
}

// secrets: a wrong Secret is named with its key and rule, and the restore goes on when it is mended.
func (su *suite) secrets(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "secrets", func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess = &v1alpha1.FileAccess{FileBrowser: &v1alpha1.FileBrowserAccess{CredentialsSecretRef: &v1alpha1.SecretReference{Name: "login"}}}
	})
	result, _ := w.drive(t, v)
	if p := progressing(&v.Status); v.Status.Phase != v1alpha1.FileRestoreFailed || p.reason != v1alpha1.ReasonValidationFailed || !strings.Contains(p.message, w.namespace+"/login") || result.RequeueAfter <= 0 {
		t.Errorf("%s: %+v, again after %s", v.Status.Phase, p, result.RequeueAfter)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "login"}, Data: map[string][]byte{"password": []byte("s3cr3t")}}
	w.create(t, secret)
	w.drive(t, v)
	if p := progressing(&v.Status); !strings.Contains(p.message, "password") || strings.Contains(p.message, "s3cr3t") {
		t.Errorf("%+v", p)
	}
	secret.Data["password"] = []byte("long enough to be a password")
	if err := w.client.Update(ctx, secret); err != nil {
		t.Fatal(err)
	}
	w.drive(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreInProgress {
		t.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
	}
	if got := w.r.ofSecret(ctx, secret); len(got) != 1 || got[0].Name != v.Name {
		t.Errorf("the Secret wakes %v", got)
	}
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	w.served(t, v)
	// A Secret that goes bad later takes nothing away.
	if err := w.client.Delete(ctx, secret); err != nil {
		t.Fatal(err)
	}
	w.drive(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreCompleted || !strings.Contains(condition(v, v1alpha1.ConditionDegraded), "login") {
		t.Errorf("%s: %q", v.Status.Phase, condition(v, v1alpha1.ConditionDegraded))
	}
	w.pulled(t)
	// Not exposed, since nobody configured how.
	public := w.restore(t, "public", func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess = &v1alpha1.FileAccess{FileBrowser: &v1alpha1.FileBrowserAccess{ExposeExternally: true}}
	})
	w.drive(t, public)
	if m := condition(public, v1alpha1.ConditionDegraded); !strings.Contains(m, "not reachable from outside") {
		t.Errorf("exposed by nothing: %q", m)
	}
}

// pulled: holders get the image with a copy of the Secret that the administrator named.
func (w *world) pulled(t *testing.T) {
	t.Helper()
	w.restart(t, w.client, func(o *Options) { o.Plan.ImagePullSecrets = []string{"registry"} })
	v := w.restore(t, "pulled", nil)
	w.drive(t, v)
	if p := progressing(&v.Status); !strings.Contains(p.message, w.namespace+"/registry") || !strings.Contains(p.message, "--holder-image-pull-secret") {
		t.Errorf("without the Secret: %+v", p)
	}
	registry := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{}}`)}}
	w.create(t, registry)
	if got := w.r.ofSecret(ctx, registry); len(got) == 0 {
		t.Error("the Secret wakes nothing")
	}
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	names := w.names(v)
	for _, namespace := range []string{names.Session, names.BackupNamespace(1)} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: names.PullSecret(1)}}
		w.get(t, s)
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: names.Object()}}
		w.get(t, d)
		refs := d.Spec.Template.Spec.ImagePullSecrets
		if s.Type != corev1.SecretTypeDockerConfigJson || len(refs) != 1 || refs[0].Name != s.Name {
			t.Errorf("%s: a Secret of type %s, pods pull with %v", namespace, s.Type, refs)
		}
	}
	w.removed(t, v)
	w.restart(t, w.client, nil)
}

// existing: spec.restoreNamespace is judged, used, and left as it was.
func (su *suite) existing(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	ns := su.cp.CreateNamespace(t, w.namespace+"-there", "pod-security.kubernetes.io/enforce", "restricted")
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "theirs"}}
	w.create(t, theirs)
	v := w.restore(t, "existing", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.RestoreNamespace = ns.Name })
	w.drive(t, v)
	if p := progressing(&v.Status); v.Status.Phase != v1alpha1.FileRestoreFailed || !strings.Contains(p.message, "restricted") {
		t.Errorf("%s: %+v", v.Status.Phase, p)
	}
	before := ns.DeepCopy()
	ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}
	if err := w.client.Patch(ctx, ns, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	w.served(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreCompleted || v.Status.CreatedNamespace != "" {
		t.Errorf("%s: %+v, created %q", v.Status.Phase, progressing(&v.Status), v.Status.CreatedNamespace)
	}
	// What only looks like ours stays.
	alike := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "alike", Labels: map[string]string{v1alpha1.LabelOriginUUID: string(v.UID)}}}
	w.create(t, alike)
	if err := w.client.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		if _, there := w.drive(t, v); there {
			return fmt.Errorf("%+v", progressing(&v.Status))
		}
		return nil
	})
	if left := w.inventory(t, v); len(left) != 1 || !strings.Contains(left[0], "alike") {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	w.get(t, theirs)
	w.get(t, ns)
	if ns.DeletionTimestamp != nil {
		t.Error("the namespace is being deleted")
	}
	missing := w.restore(t, "nowhere", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.RestoreNamespace = "nowhere" })
	w.drive(t, missing)
	if p := progressing(&missing.Status); !strings.Contains(p.message, "there is no namespace nowhere") {
		t.Errorf("%+v", p)
	}
}

// foreign: a namespace of the computed name that is somebody else's is neither used nor deleted.
func (su *suite) foreign(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "foreign", nil)
	ns := su.cp.CreateNamespace(t, w.names(v).BackupNamespace(1))
	w.drive(t, v)
	if p := progressing(&v.Status); v.Status.Phase != v1alpha1.FileRestoreFailed || !strings.Contains(p.message, "does not belong to this restore") {
		t.Errorf("%s: %+v", v.Status.Phase, p)
	}
	w.removed(t, v)
	w.get(t, ns)
	if ns.DeletionTimestamp != nil {
		t.Error("somebody else's namespace is being deleted")
	}
}

// expires: a restore deletes itself after its ttl.
func (su *suite) expires(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "expires", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.TTL = &metav1.Duration{Duration: time.Hour} })
	result, _ := w.drive(t, v)
	if v.Status.ExpiresAt == nil || !v.Status.ExpiresAt.Time.Equal(v.CreationTimestamp.Add(time.Hour)) || result.RequeueAfter <= 0 || result.RequeueAfter > time.Hour {
		t.Errorf("it expires at %v, and is looked at after %s", v.Status.ExpiresAt, result.RequeueAfter)
	}
	w.now = v.CreationTimestamp.Add(time.Hour + time.Second)
	cluster.Await(t, limit, func() error {
		if _, there := w.drive(t, v); there {
			return fmt.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
		}
		return nil
	})
	if left := w.inventory(t, v); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// frozen: what a discovery finds later changes nothing for a restore that has begun.
func (su *suite) frozen(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	v := w.restore(t, "frozen", nil)
	w.drive(t, v)
	names := w.names(v)
	var d v1alpha1.VirtualMachineBackupsDiscovery
	d.Namespace, d.Name = w.namespace, "find"
	w.get(t, &d)
	earlier := *d.Status.ValidBackups[1].DeepCopy()
	earlier.Name, earlier.CreatedAt = "b0", &metav1.Time{Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	d.Status.ValidBackups = []v1alpha1.DiscoveredBackup{earlier}
	if err := w.client.Status().Update(ctx, &d); err != nil {
		t.Fatal(err)
	}
	d.Spec.VirtualMachineName = "another"
	if err := w.client.Update(ctx, &d); err != nil {
		t.Fatal(err)
	}
	w.restart(t, w.client, nil)
	w.drive(t, v)
	if got := states(v); len(got) != 4 || got["b2/web-root"] != v1alpha1.RestoreProcessing {
		t.Errorf("the backups are %v", got)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.SessionConfig()}}
	w.get(t, cm)
	doc, err := session.Decode([]byte(cm.Data[session.KeySession]))
	if err != nil || len(doc.Backups) != 2 || doc.Backups[0].Name != "b1" || doc.VM.Name != "web" {
		t.Errorf("the session is %+v, %v", doc, err)
	}
	if d := doc.Backups[0].Disks; d[0].Name != "web-root" || d[0].Bus != "virtio" || d[1].Mode != session.Filesystem {
		t.Errorf("the disks are %+v", d)
	}
}
