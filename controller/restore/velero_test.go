package restore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/test/cluster"
)

// realVelero: two backups of a machine with three disks become a session that serves five of six
// volumes, and nothing of it is left when the restore is deleted.
func (su *suite) realVelero(t *testing.T) {
	const namespace = "shop"
	vm := session.VM{Name: "web", Namespace: namespace}
	claims := su.cp.CreateVM(t, cluster.VM{Namespace: namespace, Name: vm.Name, Disks: []cluster.Disk{
		{Name: "root", DataVolume: true}, {Name: "data", Bus: "scsi", Filesystem: true, Size: "2Gi"}, {Name: "a-log"}}})
	su.cp.CreateVM(t, cluster.VM{Namespace: namespace, Name: "other", Disks: []cluster.Disk{{Name: "root"}}})
	var found []v1alpha1.DiscoveredBackup
	for _, name := range []string{"nightly-1", "nightly-2"} {
		b := su.velero.BackupOf(t, name, namespace)
		found = append(found, discoveredBackup(b.Namespace, b.Name, b.Status.CompletionTimestamp.Time, claims...))
	}
	stop := su.start(t, nil)
	v := &v1alpha1.VirtualMachineFileRestore{
		ObjectMeta: metav1.ObjectMeta{Namespace: cluster.VeleroNamespace, Name: "recover"},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: "find", FileAccess: &v1alpha1.FileAccess{
			SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}},
	}
	su.create(t, v) // before its discovery
	su.await(t, v, v1alpha1.FileRestoreFailed)
	checkCondition(t, v, v1alpha1.ConditionProgressing, metav1.ConditionFalse, v1alpha1.ReasonValidationFailed)
	began := time.Now()
	su.discovery(t, cluster.VeleroNamespace, "find", vm, found...)

	names := plan.NewNames(v, vm)
	su.awaitRestored(t, names, 2, claims)
	t.Logf("restored after %s", time.Since(began).Round(time.Millisecond))
	su.get(t, v)
	checkCondition(t, v, v1alpha1.ConditionAvailable, metav1.ConditionFalse, v1alpha1.ReasonNotReady)
	su.checkRestores(t, v, names, claims)
	for n := 1; n <= 2; n++ {
		su.checkHolder(t, names.BackupNamespace(n), names.Object(), 2, 1)
	}

	said := su.readable(t, v, names)
	said.Backups[1].Disks[2] = session.DiskReport{Name: said.Backups[1].Disks[2].Name, State: session.Failed, Message: "no file system was found"}
	su.say(t, names, said)
	su.await(t, v, v1alpha1.FileRestorePartiallyFailed)
	checkCondition(t, v, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonPartiallyFailed)
	checkCondition(t, v, v1alpha1.ConditionDegraded, metav1.ConditionTrue, v1alpha1.ReasonPartialFailure)
	if got := states(v); got["nightly-2/web-a-log"] != v1alpha1.RestoreFailed || got["nightly-1/web-a-log"] != v1alpha1.RestoreAvailable || len(got) != 6 {
		t.Errorf("the volumes are %v", got)
	}
	said.Backups[1].Disks[2].State, said.Backups[1].Disks[2].Message = session.Readable, ""
	su.say(t, names, said) // a key was given
	su.await(t, v, v1alpha1.FileRestoreCompleted)
	checkServing(t, v, names)
	su.checkEvents(t, v)

	su.checkMended(t, names)
	cluster.Await(t, limit, func() error { // its pod may be another one
		su.run(t, names.Session)
		if su.get(t, v); v.Status.Phase != v1alpha1.FileRestoreCompleted {
			return fmt.Errorf("%s is %q: %+v", v.Name, v.Status.Phase, progressing(&v.Status))
		}
		return nil
	})

	// A controller that starts anew finds everything as it is and changes nothing.
	stop()
	before := su.inventory(t, v)
	stop = su.start(t, nil)
	su.await(t, v, v1alpha1.FileRestoreCompleted)
	su.settle(t, v)
	if after := su.inventory(t, v); !slices.Equal(before, after) {
		t.Errorf("a restart changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}

	if err := su.client.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	cluster.Await(t, limit, func() error { return cluster.Gone(su.client, v) })
	t.Logf("removed after %s", time.Since(began).Round(time.Millisecond))
	if left := su.inventory(t, v); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	stop()
}

// checkMended: what others change of what was made, or delete, is brought back.
func (su *suite) checkMended(t *testing.T, names plan.Names) {
	t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.Object()}}
	su.get(t, d)
	before := d.DeepCopy()
	d.Spec.Replicas = new(int32)
	d.Labels["example.com/theirs"] = "stays"
	if err := su.client.Patch(ctx, d, client.MergeFrom(before), client.FieldOwner("somebody")); err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(1), Name: names.SessionConfig()}}
	if err := su.client.Delete(ctx, cm); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		su.get(t, d)
		if *d.Spec.Replicas != 1 || d.Labels["example.com/theirs"] != "stays" {
			return fmt.Errorf("the holder has %d replicas and the labels %v", *d.Spec.Replicas, d.Labels)
		}
		return su.client.Get(ctx, client.ObjectKeyFromObject(cm), cm)
	})
}

// awaitRestored waits until Velero has restored exactly these claims into each backup's namespace.
func (su *suite) awaitRestored(t *testing.T, names plan.Names, backups int, claims []corev1.PersistentVolumeClaim) {
	t.Helper()
	var want []string
	for _, c := range claims {
		want = append(want, c.Name)
	}
	slices.Sort(want)
	for n := 1; n <= backups; n++ {
		cluster.Await(t, limit, func() error {
			var r velerov1.Restore
			if err := su.client.Get(ctx, client.ObjectKey{Namespace: cluster.VeleroNamespace, Name: names.Restore(n)}, &r); err != nil {
				return err
			}
			if r.Status.Phase != velerov1.RestorePhaseCompleted {
				return fmt.Errorf("%s is %q: %+v", r.Name, r.Status.Phase, r.Status)
			}
			return nil
		})
		var list corev1.PersistentVolumeClaimList
		if err := su.client.List(ctx, &list, client.InNamespace(names.BackupNamespace(n))); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range list.Items {
			got = append(got, c.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("backup %d: the claims are %q, want %q", n, got, want)
		}
	}
}

// checkRestores compares the Velero Restores with the documented form: that and nothing else.
func (su *suite) checkRestores(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, names plan.Names, claims []corev1.PersistentVolumeClaim) {
	t.Helper()
	var r velerov1.Restore
	if err := su.client.Get(ctx, client.ObjectKey{Namespace: cluster.VeleroNamespace, Name: names.Restore(2)}, &r); err != nil {
		t.Fatal(err)
	}
	spec := r.Spec.DeepCopy()
	var uids []string
	for _, s := range spec.OrLabelSelectors {
		uids = append(uids, s.MatchLabels[v1alpha1.LabelPVCUID])
	}
	var want []string
	for _, c := range claims {
		want = append(want, string(c.UID))
	}
	slices.Sort(uids)
	slices.Sort(want)
	if !slices.Equal(uids, want) {
		t.Errorf("the Restore selects %q, want %q", uids, want)
	}
	// These are Velero's own additions.
	spec.OrLabelSelectors, spec.ExcludedResources, spec.ItemOperationTimeout, spec.Hooks = nil, nil, metav1.Duration{}, velerov1.RestoreHooks{}
	got, _ := json.Marshal(spec)
	if want := fmt.Sprintf(`{"backupName":"nightly-2","includedNamespaces":["shop"],"includedResources":["persistentvolumeclaims","volumesnapshots"],"namespaceMapping":{"shop":%q},"itemOperationTimeout":"0s","hooks":{}}`, names.BackupNamespace(2)); !sameJSON(string(got), want) {
		t.Errorf("the Restore is %s\nwant %s", got, want)
	}
	if r.Labels[v1alpha1.LabelOriginUUID] != string(v.UID) || r.Annotations[v1alpha1.AnnotationRestore] != "true" {
		t.Errorf("the Restore has labels %v, annotations %v", r.Labels, r.Annotations)
	}
}

func sameJSON(a, b string) bool {
	var x, y map[string]any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// checkHolder looks at what a disk holder attaches: devices are block volumes, mounts file systems.
func (su *suite) checkHolder(t *testing.T, namespace, name string, devices, folders int) {
	t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	cluster.Await(t, limit, func() error { return su.client.Get(ctx, client.ObjectKeyFromObject(d), d) })
	c := d.Spec.Template.Spec.Containers[0]
	got := 0
	for _, m := range c.VolumeMounts {
		if strings.HasPrefix(m.MountPath, session.DirVolumes+"/") {
			got++
		}
	}
	if len(c.VolumeDevices) != devices || got != folders {
		t.Errorf("%s: the holder has devices %v and mounts %v", namespace, c.VolumeDevices, c.VolumeMounts)
	}
}

// readable is a report that says that all disks of the session's document can be read.
func (su *suite) readable(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, names plan.Names) *session.Report {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.SessionConfig()}}
	su.get(t, cm)
	doc, err := session.Decode([]byte(cm.Data[session.KeySession]))
	if err != nil {
		t.Fatal(err)
	}
	if doc.UID != string(v.UID) {
		t.Errorf("the document is of %s", doc.UID)
	}
	said := &session.Report{Version: session.Version, ID: doc.ID, Node: "node-1", Updated: time.Now().UTC(), State: session.Serving}
	for _, b := range doc.Backups {
		r := session.BackupReport{Name: b.Name, State: session.Readable}
		for _, d := range b.Disks {
			r.Disks = append(r.Disks, session.DiskReport{Name: d.Name, State: session.Readable, Format: "raw"})
		}
		said.Backups = append(said.Backups, r)
	}
	return said
}

// say is what a session says that has a running front holder.
func (su *suite) say(t *testing.T, names plan.Names, said *session.Report) {
	t.Helper()
	su.run(t, names.Session)
	b, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	if err := su.report(t, names, string(b)); err != nil {
		t.Fatal(err)
	}
}

// states are the volumes' states by backup and name.
func states(v *v1alpha1.VirtualMachineFileRestore) map[string]v1alpha1.RestoreState {
	out := map[string]v1alpha1.RestoreState{}
	for _, p := range v.Status.PVCRestores {
		for _, r := range p.Restores {
			out[r.VeleroBackupName+"/"+p.PVCName] = r.State
		}
	}
	return out
}

// checkServing: what the status says is what a client needs.
func checkServing(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, names plan.Names) {
	t.Helper()
	host := names.Object() + "." + names.Session + ".svc.cluster.local"
	i := v.Status.FileServingInfo
	if i == nil || i.SSH == nil || i.FileBrowser == nil {
		t.Fatalf("fileServingInfo is %+v", i)
	}
	if i.SSH.ClusterAccess != "ssh://"+host+":2222" || !strings.HasPrefix(i.SSH.HostKey, "ssh-ed25519 ") || i.SSH.CredentialsSecretRef.Name != names.SSH() || i.SSH.CredentialsSecretRef.Namespace != names.Session {
		t.Errorf("ssh: %+v", i.SSH)
	}
	if i.FileBrowser.ClusterAccess != "https://"+host+":8443" || !strings.Contains(i.FileBrowser.CABundle, "BEGIN CERTIFICATE") || len(i.FileBrowser.Fingerprint) != 95 || i.FileBrowser.CredentialsSecretRef.Name != names.Browser() {
		t.Errorf("fileBrowser: %+v", i.FileBrowser)
	}
	if v.Status.CreatedNamespace != names.Session || i.PodName == "" {
		t.Errorf("namespace %q, pod %q", v.Status.CreatedNamespace, i.PodName)
	}
}
