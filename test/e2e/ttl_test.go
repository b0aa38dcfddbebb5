package e2e

import (
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// expires: bank's session is left until its ttl, and goes with everything. The shortest ttl is ten
// minutes, so the rule that says so is lifted for this test, on the suite's own node alone.
func (f *fault) expires(t *testing.T) {
	lift := f.liftShortestTTL(t)
	defer lift()
	if err := f.c.w.get(f.bank.VirtualMachineFileRestore); err != nil {
		t.Fatal(err)
	}
	before := f.bank.DeepCopy()
	const rest = 5 * time.Second
	f.bank.Spec.TTL = &metav1.Duration{Duration: time.Since(f.bank.CreationTimestamp.Time).Round(time.Second) + rest}
	// The API server takes a moment until it has the changed rule.
	cluster.Await(t, serveLimit, func() error {
		return f.c.w.admin.Patch(t.Context(), f.bank.VirtualMachineFileRestore.DeepCopy(), client.MergeFrom(before))
	})
	end := f.bank.CreationTimestamp.Add(f.bank.Spec.TTL.Duration)
	cluster.Await(t, endLimit, func() error { return cluster.Gone(f.c.w.admin, f.bank.VirtualMachineFileRestore) })
	if late := time.Since(end); late < 0 {
		t.Errorf("it went %s too early", -late)
	} else {
		t.Logf("gone with everything %s after its ttl had ended", late.Round(10*time.Millisecond))
	}
}

// liftShortestTTL removes the rule about the least ttl from the CRD until lift is called.
func (f *fault) liftShortestTTL(t *testing.T) (lift func()) {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "virtualmachinefilerestores." + v1alpha1.GroupVersion.Group}}
	c, err := client.New(f.c.w.Config, client.Options{Scheme: crdScheme(t)})
	if err == nil {
		err = c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd)
	}
	if err != nil {
		t.Fatal(err)
	}
	change := func(rules func(apiextensionsv1.ValidationRules) apiextensionsv1.ValidationRules) (was apiextensionsv1.ValidationRules) {
		for i := range crd.Spec.Versions {
			spec := crd.Spec.Versions[i].Schema.OpenAPIV3Schema.Properties["spec"]
			ttl := spec.Properties["ttl"]
			was = ttl.XValidations
			ttl.XValidations = rules(was)
			spec.Properties["ttl"] = ttl
			crd.Spec.Versions[i].Schema.OpenAPIV3Schema.Properties["spec"] = spec
		}
		if err := c.Update(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		return was
	}
	was := change(func(apiextensionsv1.ValidationRules) apiextensionsv1.ValidationRules { return nil })
	if len(was) == 0 {
		t.Fatal("there is no rule about the least ttl")
	}
	return func() {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); err != nil {
			t.Fatal(err)
		}
		change(func(apiextensionsv1.ValidationRules) apiextensionsv1.ValidationRules { return was })
	}
}
