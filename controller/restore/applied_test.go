package restore

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"

	"vmfr/api/v1alpha1"
)

// answering is a client of which only Apply is asked; meanwhile happens before its answer arrives.
type answering struct {
	client.Client
	applies   int
	meanwhile func()
}

func (a *answering) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	a.applies++
	a.meanwhile()
	return nil
}

// TestApplied: what was applied is not applied again, but where somebody changed or deleted it since, also where word
// of that comes before the answer.
func TestApplied(t *testing.T) {
	c := &answering{meanwhile: func() {}}
	r := &reconciler{client: c}
	s := &scope{vmfr: &v1alpha1.VirtualMachineFileRestore{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, now: time.Now()}
	o := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "o", Labels: map[string]string{v1alpha1.LabelOriginUUID: "u"}}}
	deleted := func() { r.applied.notice().Delete(ctrlevent.DeleteEvent{Object: o}) }
	for i, x := range []struct {
		before, meanwhile func()
		want              int // applications until now
	}{
		{want: 1}, {want: 1},
		{before: deleted, want: 2}, {want: 2},
		{before: deleted, meanwhile: deleted, want: 3}, {want: 4}, {want: 4},
	} {
		c.meanwhile = func() {}
		if x.meanwhile != nil {
			c.meanwhile = x.meanwhile
		}
		if x.before != nil {
			x.before()
		}
		if err := r.apply(t.Context(), s, o, nil); err != nil || c.applies != x.want {
			t.Errorf("%d: %d applications, %v; want %d", i, c.applies, err, x.want)
		}
	}
}
