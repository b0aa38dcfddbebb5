package e2e

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/test/cluster"
)

// machine is a virtual machine whose volumes have bytes.
type machine struct {
	w    *world
	spec cluster.VM
}

// machine creates a virtual machine in a namespace of its own, its volumes empty.
func (w *world) machine(t *testing.T, spec cluster.VM) *machine {
	t.Helper()
	for i := range spec.Disks {
		if spec.Disks[i].Class == "" {
			spec.Disks[i].Class = w.class(t)
		}
	}
	spec.Unbound = true // volumes may wait for the pod that fills them
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: spec.Namespace}}
	w.create(t, ns)
	w.CreateVM(t, spec)
	return &machine{w: w, spec: spec}
}

// class is the StorageClass for volumes.
func (w *world) class(t testing.TB) string {
	t.Helper()
	if *storageClass != "" {
		return *storageClass
	}
	var list storagev1.StorageClassList
	if err := w.admin.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Items {
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			return c.Name
		}
	}
	t.Fatal("no StorageClass is the default: name one with -storage-class")
	return ""
}

// fill writes the images, one a disk in their order ("" leaves a disk as it is): a Block volume is
// the image, a Filesystem volume gets it as disk.img, owned as KubeVirt's are.
func (m *machine) fill(t *testing.T, images ...string) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: m.spec.Namespace, Name: "fill"},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{Name: "fill", Image: *toolsImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"sleep", "3600"}, SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64)}}},
		},
	}
	c := &pod.Spec.Containers[0]
	var targets []string
	for i, d := range m.spec.Disks {
		name := fmt.Sprintf("disk%d", i)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: m.spec.Name + "-" + d.Name}}})
		if d.Filesystem {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
			targets = append(targets, "/"+name+"/disk.img")
		} else {
			c.VolumeDevices = append(c.VolumeDevices, corev1.VolumeDevice{Name: name, DevicePath: "/dev/" + name})
			targets = append(targets, "/dev/"+name)
		}
	}
	if err := m.w.admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, endLimit, func() error {
		if err := m.w.get(pod); err != nil {
			return err
		}
		return ready(pod)
	})
	for i, image := range images {
		if image == "" {
			continue
		}
		script := "gzip -dc | dd of=" + targets[i] + " bs=1M && sync"
		if m.spec.Disks[i].Filesystem {
			script += " && chown 107:107 " + targets[i] + " && chmod 660 " + targets[i]
		}
		m.w.pipe(t, image, m.spec.Namespace, "fill", script)
	}
	m.w.remove(t, pod)
}

// pipe runs a script in a pod, which gets a file on its standard input, compressed.
func (w *world) pipe(t testing.TB, file, namespace, pod, script string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, to := io.Pipe()
	go func() {
		z, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
		if err == nil {
			if _, err = io.Copy(z, f); err == nil {
				err = z.Close()
			}
		}
		_ = to.CloseWithError(err)
	}()
	cmd := exec.CommandContext(t.Context(), "kubectl", "--kubeconfig", w.Kubeconfig, "-n", namespace, "exec", "-i", pod, "--", "sh", "-ec", script)
	cmd.Stdin = r
	out, err := cmd.CombinedOutput()
	_ = r.Close()
	if err != nil {
		t.Fatalf("%s in %s/%s: %v: %s", script, namespace, pod, err, strings.TrimSpace(string(out)))
	}
}

// lose deletes the machine with its namespace and everything in it, as an accident would.
func (m *machine) lose(t *testing.T) {
	t.Helper()
	m.w.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: m.spec.Namespace}})
	cluster.Await(t, endLimit, func() error {
		var list corev1.PersistentVolumeList
		if err := m.w.admin.List(context.Background(), &list); err != nil {
			return err
		}
		for _, v := range list.Items {
			if c := v.Spec.ClaimRef; c != nil && c.Namespace == m.spec.Namespace {
				return fmt.Errorf("the volume %s of %s/%s is still there", v.Name, c.Namespace, c.Name)
			}
		}
		return nil
	})
}

// disk is the claim's name of a disk, which is its folder's name in the served tree.
func (m *machine) disk(i int) string { return m.spec.Name + "-" + m.spec.Disks[i].Name }
