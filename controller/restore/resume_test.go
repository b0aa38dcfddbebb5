package restore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"vmfr/api/v1alpha1"
)

// errKilled is what a killed controller's requests end with.
var errKilled = errors.New("killed")

// mortal is a client that dies after a number of writes: the last one arrives, and nothing after it.
type mortal struct {
	client.Client
	writes, most atomic.Int64
}

// newMortal counts writes; most 0 lives for ever.
func (su *suite) newMortal(t *testing.T, most int64) *mortal {
	t.Helper()
	inner, err := client.NewWithWatch(su.cp.Config, client.Options{Scheme: su.scheme, Mapper: su.client.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{}
	m.most.Store(most)
	write := func(do func() error) error {
		if m.dead() {
			return errKilled
		}
		m.writes.Add(1)
		return do()
	}
	m.Client = interceptor.NewClient(inner, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if m.dead() {
				return errKilled
			}
			return c.Get(ctx, key, o, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return write(func() error { return c.Create(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return write(func() error { return c.Patch(ctx, o, p, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			return write(func() error { return c.Apply(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return write(func() error { return c.Delete(ctx, o, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return write(func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
	return m
}

func (m *mortal) dead() bool {
	most := m.most.Load()
	return most > 0 && m.writes.Load() >= most
}

// story is a restore from its creation to Completed, with what Velero and the node do in between. tell is called where
// the controller has to work until it has no more to do.
func (w *world) story(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, work func()) {
	t.Helper()
	work()
	w.velero(t, v, 1, velerov1.RestorePhaseInProgress, both...)
	work()
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted)
	work()
	w.say(t, w.names(v), w.readable(t, v, w.names(v)))
	work()
}

// killed: wherever a controller dies, another one brings the same objects about. It dies after each of its
// writes (in steps, to save time) and the next one goes on from there.
func (su *suite) killed(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	both := func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess = &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}
	}
	run := func(name string, dies int64) (objects []string, writes int64) {
		m := su.newMortal(t, dies)
		w.restart(t, m, nil)
		v := w.restore(t, name, both)
		w.story(t, v, func() {
			for n := 0; !m.dead(); n++ { // the one that dies
				if n > 20 {
					t.Fatalf("%s changes for ever: %+v", name, v.Status)
				}
				_, err := w.r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(v)})
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatalf("%s: %v", name, err)
				}
				before := v.ResourceVersion
				su.get(t, v)
				if err == nil && v.ResourceVersion == before {
					return
				}
			}
			w.restart(t, su.client, nil)
			w.drive(t, v)
		})
		if v.Status.Phase != v1alpha1.FileRestoreCompleted {
			t.Errorf("%s: %s: %+v", name, v.Status.Phase, progressing(&v.Status))
		}
		return anonymous(su.inventory(t, v), string(v.UID), w.names(v).Suffix, name), m.writes.Load()
	}
	want, all := run("reference", 0)
	if len(want) < 15 || all < 20 {
		t.Fatalf("%d writes make\n%s", all, strings.Join(want, "\n"))
	}
	t.Logf("%d writes make %d objects", all, len(want))
	for k := int64(1); k < all; k += max(1, all/9) {
		name := fmt.Sprintf("dies-%d", k)
		if got, _ := run(name, k); !slices.Equal(got, want) {
			t.Errorf("a controller that died after %d of %d writes leaves\n%s\ninstead of\n%s", k, all, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

var secretData = regexp.MustCompile(`map\[[^]]*(\[[^]]*\][^]]*)*\]$|"id": "[0-9a-f]*"`)

// anonymous makes inventories of two restores comparable.
func anonymous(objects []string, uid, suffix, name string) []string {
	out := make([]string, 0, len(objects))
	for _, o := range objects {
		if strings.HasPrefix(o, "*v1.Secret ") {
			o = secretData.ReplaceAllString(o, "...")
		}
		o = regexp.MustCompile(`"id": "[0-9a-f]*"`).ReplaceAllString(o, "ID")
		o = strings.NewReplacer(uid, "UID", suffix, "SUFFIX", `"`+name+`"`, "NAME", ":"+name+" ", ":NAME ").Replace(o)
		if strings.Contains(o, "-report ") {
			o, _, _ = strings.Cut(o, "map[")
		}
		out = append(out, o)
	}
	slices.Sort(out)
	return out
}

// repaired: what somebody deletes of a served session comes back without an event, also what cannot be watched.
func (su *suite) repaired(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "repaired", nil)
	w.story(t, v, func() { w.drive(t, v) })
	before := su.inventory(t, v)
	names := w.names(v)
	lost := []client.Object{
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.Object()}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.Object()}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.Browser()}},
	}
	for _, o := range lost {
		if err := su.client.Delete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if now := su.inventory(t, v); len(now) != len(before)-len(lost) {
		t.Fatalf("%d objects were deleted, and of %d there are %d", len(lost), len(before), len(now))
	}
	result, _ := w.drive(t, v) // as on any event, right after they were applied
	if result.RequeueAfter <= 0 || result.RequeueAfter > repair {
		t.Fatalf("a served restore is looked at again after %s", result.RequeueAfter)
	}
	w.now = w.now.Add(result.RequeueAfter)
	w.drive(t, v)
	kinds := func(objects []string) (out []string) {
		for _, o := range objects {
			out = append(out, strings.Join(strings.Fields(o)[:2], " "))
		}
		return out
	}
	if after := su.inventory(t, v); !slices.Equal(kinds(after), kinds(before)) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(kinds(before), "\n"), strings.Join(kinds(after), "\n"))
	}
	if v.Status.Phase != v1alpha1.FileRestoreCompleted {
		t.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
	}
}
