package restore

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

// annotationGaveUp is on a backup's namespace: why it is not served, decided once a limit had passed.
const annotationGaveUp = "vmfr.io/gave-up"

// namespaces makes the session's namespace and one for each backup, or judges the existing one.
func (r *reconciler) namespaces(ctx context.Context, s *scope) error {
	if !s.names.Temporary {
		var ns corev1.Namespace
		err := r.direct.Get(ctx, types.NamespacedName{Name: s.names.Session}, &ns)
		switch {
		case apierrors.IsNotFound(err):
			s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("spec.restoreNamespace: there is no namespace %s: create it", s.names.Session))
		case err != nil:
			return err
		case ns.DeletionTimestamp != nil:
			s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("spec.restoreNamespace: the namespace %s is being deleted", s.names.Session))
		default:
			if why := plan.JudgeNamespace(&ns); why != "" {
				s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("spec.restoreNamespace: %s", why))
			}
		}
		if s.verdict.reason != "" {
			s.wake(s.now.Add(r.Recheck))
			return errStop
		}
	} else {
		s.vmfr.Status.CreatedNamespace = s.names.Session
	}
	for _, ns := range plan.Namespaces(s.input()) {
		if err := r.namespace(ctx, s, ns); err != nil {
			return err
		}
	}
	return nil
}

// namespace applies one namespace, unless it is somebody else's.
func (r *reconciler) namespace(ctx context.Context, s *scope, ns *corev1.Namespace) error {
	var is corev1.Namespace
	err := r.direct.Get(ctx, client.ObjectKeyFromObject(ns), &is)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case is.Labels[v1alpha1.LabelOriginUUID] != string(s.vmfr.UID):
		s.stop(v1alpha1.ReasonFailed, fmt.Sprintf("the namespace %s exists and does not belong to this restore (label %s): it is not touched; delete it, or create this restore again", ns.Name, v1alpha1.LabelOriginUUID))
		s.wake(s.now.Add(r.Recheck))
		return errStop
	case is.DeletionTimestamp != nil:
		s.stop(v1alpha1.ReasonFailed, fmt.Sprintf("the namespace %s was deleted by somebody: delete this restore and create it again", ns.Name))
		s.wake(s.now.Add(r.Recheck))
		return errStop
	}
	if is.UID == "" {
		err = r.apply(ctx, s, ns, &is)
	} else {
		err = r.apply(ctx, s, ns, nil)
	}
	if err != nil {
		return err
	}
	for _, b := range s.backups {
		if s.names.BackupNamespace(b.number) == ns.Name {
			b.target = &is
			b.gaveUp = is.Annotations[annotationGaveUp]
			if b.gaveUp != "" {
				b.fail(v1alpha1.RestoreFailed, b.gaveUp)
			}
		}
	}
	return nil
}

// credentials reads or makes what is secret in the session.
func (r *reconciler) credentials(ctx context.Context, s *scope) error {
	in := s.input()
	var found plan.Found
	references := plan.SecretReferences(r.Plan, in)
	session := func(name string) *types.NamespacedName {
		return &types.NamespacedName{Namespace: s.names.Session, Name: name}
	}
	found.Pull = make([]*corev1.Secret, len(references.Pull))
	type want struct {
		key  *types.NamespacedName
		into **corev1.Secret
		own  bool
	}
	all := []want{
		{session(s.names.Identity()), &found.Identity, true}, {session(s.names.SSH()), &found.SSH, true},
		{session(s.names.Browser()), &found.Browser, true}, {session(s.names.TLS()), &found.TLS, true},
		{references.SSH, &found.SSHRef, false}, {references.Browser, &found.BrowserRef, false}, {references.DiskKeys, &found.DiskKeysRef, false},
	}
	for i := range references.Pull {
		all = append(all, want{&references.Pull[i], &found.Pull[i], false})
	}
	for _, want := range all {
		if want.key == nil {
			continue
		}
		secret := new(corev1.Secret)
		err := r.direct.Get(ctx, *want.key, secret)
		switch {
		case err == nil:
			*want.into = secret
		case apierrors.IsForbidden(err) && !want.own:
			s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("the controller may not read the Secret %s: allow it, or use a Secret in %s", want.key, r.Plan.Namespace))
			s.wake(s.now.Add(r.Recheck))
			return errStop
		case !apierrors.IsNotFound(err):
			return err
		}
	}
	material, err := plan.NewMaterial(r.Plan, in, found, s.now, r.Random)
	if wrong := new(plan.CredentialError); errors.As(err, &wrong) {
		s.stop(v1alpha1.ReasonValidationFailed, wrong.Error())
		s.wake(s.now.Add(r.Recheck)) // a Secret of another namespace cannot be watched
		return errStop
	}
	if err != nil {
		return err
	}
	s.wake(s.now.Add(repair))
	s.material = material
	return nil
}

// serve applies all objects but the holders, which depend on volumes.
func (r *reconciler) serve(ctx context.Context, s *scope) error {
	built, err := plan.Build(r.Plan, s.input(), s.material)
	if unexposed := new(plan.ExposeError); errors.As(err, &unexposed) {
		s.expose = unexposed.Error()
	} else if err != nil {
		s.stop(v1alpha1.ReasonFailed, err.Error())
		return errStop
	}
	for _, step := range built.Steps() {
		if step.Name == plan.StepNamespaces || step.Name == plan.StepHolders {
			continue
		}
		if err := r.applyAll(ctx, s, step.Objects); err != nil {
			return err
		}
	}
	return r.publish(ctx, s)
}

func (r *reconciler) applyAll(ctx context.Context, s *scope, objects []client.Object) error {
	for _, o := range objects {
		if err := r.apply(ctx, s, o, nil); err != nil {
			return err
		}
	}
	return nil
}

// apply makes an object as it is planned, whoever made or changed it before; what others own beside our
// fields stays. is gets the result; where it is not nil the object is applied in any case.
func (r *reconciler) apply(ctx context.Context, s *scope, o client.Object, is client.Object) error {
	u, err := plan.ForApply(o)
	if err != nil {
		return err
	}
	key, sum, err := digest(u)
	if err != nil {
		return err
	}
	remembered := r.applied.of(s.vmfr.UID)
	if is == nil && r.applied.has(remembered, key, sum, s.now) {
		return nil
	}
	if err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("applying %s: %w", key, err)
	}
	r.applied.add(remembered, key, sum, s.now)
	if is == nil {
		return nil
	}
	return fromUnstructured(u, is)
}

// giveUp decides that a backup is not served, and writes it down where it stays: in its namespace.
func (r *reconciler) giveUp(ctx context.Context, s *scope, b *backup, reason string) error {
	reason = clip(reason)
	if b.gaveUp == "" && b.target != nil {
		to := b.target.DeepCopy()
		if to.Annotations == nil {
			to.Annotations = map[string]string{}
		}
		to.Annotations[annotationGaveUp] = reason
		if err := r.client.Patch(ctx, to, client.MergeFrom(b.target)); err != nil {
			return fmt.Errorf("giving up the backup %s: %w", b.name, err)
		}
		b.target, b.gaveUp = to, reason
	}
	b.fail(v1alpha1.RestoreFailed, reason)
	return nil
}
