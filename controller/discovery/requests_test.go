package discovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

// testRequests: what becomes of DownloadRequests when a controller is killed, when an address has expired, and
// when Velero does not answer.
func (b *bench) testRequests(t *testing.T) {
	c, err := client.NewWithWatch(b.cp.Config, client.Options{Scheme: b.scheme})
	if err != nil {
		t.Fatal(err)
	}
	d := discovery("requests", func(s *v1alpha1.VirtualMachineBackupsDiscoverySpec) { s.EndTime = new(v1alpha1.Time("2020-01-01")) })
	b.create(t, d)
	owner := metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VirtualMachineBackupsDiscovery", Name: d.Name, UID: d.UID}
	requests := func() []velerov1.DownloadRequest {
		t.Helper()
		var l velerov1.DownloadRequestList
		if err := b.client.List(ctx, &l, client.InNamespace(cluster.VeleroNamespace)); err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	r := velero.NewReader(c, velero.ReaderOptions{})
	defer r.Close()
	backup, err := r.Backup(ctx, types.NamespacedName{Namespace: cluster.VeleroNamespace, Name: "a-march"})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *velero.Reader) {
		t.Helper()
		if has, err := r.HasVM(ctx, backup, shopDB, owner); !has || err != nil {
			t.Errorf("%v, %v", has, err)
		}
	}
	ask(r)
	if left := requests(); len(left) > 0 {
		t.Fatalf("%d requests are left", len(left))
	}

	// A controller that is killed deletes nothing.
	killed := velero.NewReader(interceptor.NewClient(c, interceptor.Funcs{
		Delete: func(context.Context, client.WithWatch, client.Object, ...client.DeleteOption) error {
			return errors.New("killed")
		},
	}), velero.ReaderOptions{})
	defer killed.Close()
	for name, change := range map[string]func(*velerov1.DownloadRequest){
		"still good":          func(*velerov1.DownloadRequest) {},
		"a refused signature": spoil,
		"about to expire": func(o *velerov1.DownloadRequest) {
			o.Status.Expiration = &metav1.Time{Time: time.Now().Add(20 * time.Second)}
		},
		"without its deadline": func(o *velerov1.DownloadRequest) { o.Status.Expiration = nil },
	} {
		ask(killed)
		left := requests()
		if len(left) != 1 || left[0].OwnerReferences[0].UID != d.UID || left[0].Labels[velero.LabelRequest] == "" || len(left[0].Name) > 63 {
			t.Fatalf("%s: %d requests are left: %+v", name, len(left), left)
		}
		before := left[0].DeepCopy()
		change(&left[0])
		if err := b.client.Patch(ctx, &left[0], client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		ask(r)
		if left := requests(); len(left) > 0 {
			t.Errorf("%s: %d requests are left", name, len(left))
		}
	}

	// A signature that is always refused is asked for anew once, not for ever.
	asked := 0
	broken := velero.NewReader(interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if _, ok := o.(*velerov1.DownloadRequest); ok {
				asked++
				if err := c.Create(ctx, o, opts...); err != nil {
					return err
				}
				cluster.Await(t, limit, func() error {
					if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
						return err
					}
					if o.(*velerov1.DownloadRequest).Status.DownloadURL == "" {
						return errors.New("not answered yet")
					}
					return nil
				})
				spoil(o.(*velerov1.DownloadRequest))
			}
			return nil
		},
	}), velero.ReaderOptions{})
	defer broken.Close()
	if _, err := broken.HasVM(ctx, backup, shopDB, owner); !errors.Is(err, velero.ErrUnreachable) || asked != 2 || !strings.Contains(fmt.Sprint(err), "403") {
		t.Errorf("%v after %d requests", err, asked)
	}

	// Nobody serves this namespace.
	elsewhere := b.cp.CreateNamespace(t, "elsewhere")
	location := &velerov1.BackupStorageLocation{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "elsewhere"},
		Spec: velerov1.BackupStorageLocationSpec{Provider: "aws", StorageType: velerov1.StorageType{ObjectStorage: &velerov1.ObjectStorageLocation{Bucket: "x"}}}}
	b.create(t, location)
	backup.Namespace = "elsewhere"
	hasty := velero.NewReader(c, velero.ReaderOptions{URLTimeout: 300 * time.Millisecond})
	defer hasty.Close()
	if _, err := hasty.HasVM(ctx, backup, shopDB, metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: "elsewhere", UID: elsewhere.UID}); !errors.Is(err, velero.ErrNotAnswered) || !strings.Contains(err.Error(), "look at the log of the Velero server") {
		t.Errorf("%v", err)
	}
}

// spoil changes the signature of the address.
func spoil(o *velerov1.DownloadRequest) {
	o.Status.DownloadURL = strings.Replace(o.Status.DownloadURL, "X-Amz-Signature=", "X-Amz-Signature=0", 1)
}
