package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/test/cluster"
)

// nodeAgentConfig is the name of the ConfigMap that Velero's node agent reads when it starts.
const nodeAgentConfig = "node-agent"

// Location is the name of Velero's backup storage location, its default.
const Location = "default"

// Velero installs Velero with its node agent as `velero install` does, and returns when its
// location is Available. It needs CRDs and S3; backups of volumes need Storage.
func (c Cluster) Velero(ctx context.Context) error {
	s3, err := c.S3URL(ctx)
	if err != nil {
		return err
	}
	server, err := c.loadPrograms(ctx, "velero", cluster.VeleroPrograms, "velero")
	if err != nil {
		return err
	}
	aws, err := c.loadPlugin(ctx, cluster.VeleroPrograms, "velero-plugin-for-aws")
	if err != nil {
		return err
	}
	kubevirt, err := c.loadPlugin(ctx, cluster.KubeVirtPlugin, "kubevirt-velero-plugin")
	if err != nil {
		return err
	}
	manifest, err := veleroInstall(ctx,
		"--namespace", cluster.VeleroNamespace, "--image", server, "--plugins", aws+","+kubevirt,
		"--provider", "aws", "--bucket", Bucket, "--use-volume-snapshots=false",
		// Checksums of the request's body are what not every gateway knows.
		"--backup-location-config", "region="+Region+",s3ForcePathStyle=true,checksumAlgorithm=,s3Url="+s3,
		"--features", "EnableCSI", "--use-node-agent", "--privileged-node-agent", // for block devices
		"--kubelet-root-dir", c.kubelet(), "--csi-snapshot-early-frequent-polling",
		// Nothing is reserved on a small machine.
		"--velero-pod-cpu-request", "0", "--velero-pod-cpu-limit", "0", "--velero-pod-mem-request", "0", "--velero-pod-mem-limit", "0")
	if err != nil {
		return err
	}
	objects, err := parse(manifest)
	if err != nil {
		return fmt.Errorf("velero install: %w", err)
	}
	config, err := render("velero.yaml", map[string]string{"Namespace": cluster.VeleroNamespace, "NodeAgentConfig": nodeAgentConfig})
	if err != nil {
		return err
	}
	var first, workloads []*unstructured.Unstructured // which read the rest when they start
	for _, o := range objects {
		if err := adapt(o); err != nil {
			return fmt.Errorf("velero install: %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		switch o.GetKind() {
		case "CustomResourceDefinition": // CRDs, of the same version
		case "Deployment", "DaemonSet":
			workloads = append(workloads, o)
		default:
			first = append(first, o)
		}
	}
	if err := c.applyObjects(ctx, slices.Concat(first, config, workloads)); err != nil {
		return err
	}
	return c.available(ctx)
}

// veleroInstall returns what `velero install` would make.
func veleroInstall(ctx context.Context, args ...string) (string, error) {
	dir, lock, err := cluster.VeleroPrograms.Use(ctx)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	tmp, err := os.MkdirTemp("", "velero")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	secret, kubeconfig := filepath.Join(tmp, "cloud"), filepath.Join(tmp, "kubeconfig")
	for path, content := range map[string]string{
		secret: fmt.Sprintf("[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", AccessKey, SecretKey),
		// Of no cluster: none is asked, but there has to be one.
		kubeconfig: "{apiVersion: v1, kind: Config, current-context: none, contexts: [{name: none, context: {cluster: none}}],\n" +
			" clusters: [{name: none, cluster: {server: \"https://192.0.2.1\"}}]}\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	args = append([]string{"install", "--dry-run", "-o", "yaml", "--kubeconfig", kubeconfig, "--secret-file", secret}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "velero"), args...)
	cmd.Env = append(os.Environ(), "HOME="+tmp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("velero %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}

// adapt changes an object of Velero's for tests: what happens is noticed in seconds, not minutes,
// and volumes are moved at once.
func adapt(o *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(o.Object, "status")
	switch o.GetKind() {
	case "BackupStorageLocation":
		for field, every := range map[string]string{"validationFrequency": "5s", "backupSyncPeriod": "5s"} {
			if err := unstructured.SetNestedField(o.Object, every, "spec", field); err != nil {
				return err
			}
		}
	case "Deployment":
		// One server for one location; an old one ends first.
		if err := unstructured.SetNestedField(o.Object, "Recreate", "spec", "strategy", "type"); err != nil {
			return err
		}
		return addArgument(o, "--item-operation-sync-frequency=1s")
	case "DaemonSet":
		return addArgument(o, "--node-agent-configmap="+nodeAgentConfig)
	}
	return nil
}

// addArgument adds an argument to the only container of a workload.
func addArgument(o *unstructured.Unstructured, argument string) error {
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil {
		return err
	}
	if len(containers) != 1 {
		return fmt.Errorf("it has %d containers, not one", len(containers))
	}
	container, ok := containers[0].(map[string]any)
	if !ok {
		return fmt.Errorf("its container is a %T", containers[0])
	}
	args, _, err := unstructured.NestedStringSlice(container, "args")
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedStringSlice(container, append(args, argument), "args"); err != nil {
		return err
	}
	return unstructured.SetNestedSlice(o.Object, containers, path...)
}

// available waits until Velero's Pods are ready and its location is Available.
func (c Cluster) available(ctx context.Context) error {
	k, err := c.client()
	if err != nil {
		return err
	}
	if err := c.rolledOut(ctx, deployment(cluster.VeleroNamespace, "velero")); err != nil {
		return err
	}
	if err := c.rolledOut(ctx, daemonSet(cluster.VeleroNamespace, "node-agent")); err != nil {
		return err
	}
	return await(ctx, func() error {
		var l velerov1.BackupStorageLocation
		if err := k.Get(ctx, client.ObjectKey{Namespace: cluster.VeleroNamespace, Name: Location}, &l); err != nil {
			return err
		}
		if l.Status.Phase != velerov1.BackupStorageLocationPhaseAvailable {
			return fmt.Errorf("backup storage location %s is %q: %s", l.Name, l.Status.Phase, l.Status.Message)
		}
		return nil
	})
}
