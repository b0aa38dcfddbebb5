package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/cluster/node"
)

// drained: a session of two backups goes to another node when its own is drained, and back, by itself.
// A client whose transfer breaks goes on at the same address; the drained node has nothing of it left.
func (f *fault) drained(t *testing.T) {
	home := f.c.w.node
	before := leftOn(t, home)
	away := f.c.w.join(t)
	f.c.w.schedule(t, away, "cordon") // the session begins at home
	r := f.c.web.restore(t, "drained", "web-again", backups(moved, snapshot))
	f.c.w.inhabited(t, away) // while Velero moves data
	fresh := leftOn(t, away)
	r.await(t, v1alpha1.FileRestoreCompleted)
	f.c.w.schedule(t, away, "uncordon")
	m := &move{fault: fault{c: f.c, s: r.server(t), big: f.big}, r: r}

	// The administrator of a node with other work on it moves the session alone; then all of the other one.
	without := m.drain(t, home, away, "--pod-selector="+v1alpha1.LabelOriginUUID+"="+string(r.UID))
	f.c.costs.add("a node with a session of two backups is drained: clients without it", fmt.Sprintf("%.1f s", without.Seconds()))
	nothingMore(t, home, before)
	m.drain(t, away, home)
	nothingMore(t, away, fresh)

	r.delete(t)
	if err := away.Leave(t.Context()); err != nil {
		t.Error(err)
	}
}

// move is a session that changes its node.
type move struct {
	fault
	r *fileRestore
}

// drain drains a node while a client pulls a file, and waits until the session is on the other one. It
// returns for how long no client could reach it.
func (m *move) drain(t *testing.T, from, to *node.Node, options ...string) (without time.Duration) {
	t.Helper()
	m.on(t, from)
	tr := m.pull(t.Context(), t, 80) // a drain takes its time, more so on a busy machine
	broken := make(chan time.Time, 1)
	go func() {
		err := <-tr.done
		broken <- time.Now()
		tr.done <- err
	}()
	began := time.Now()
	out, err := m.c.w.kubectl(t.Context(), append([]string{"drain", from.Name(), "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=" + serveLimit.String()}, options...)...)
	if err != nil {
		m.c.w.schedule(t, from, "uncordon")
		t.Fatal(err)
	}
	drained := time.Since(began)
	at := <-broken
	if err := <-tr.done; err == nil {
		t.Error("the transfer outlived the drain: it was too fast for this test")
	}
	cluster.Await(t, serveLimit, func() error {
		return errors.Join(m.lists(t, moved), m.lists(t, snapshot))
	})
	without = time.Since(at)
	m.on(t, to)
	told := within(t, serveLimit, func() error { return m.told(to) })
	t.Logf("%s was drained in %s:\n%s", from.Name(), drained.Round(10*time.Millisecond), out)
	t.Logf("transfers broke after %s, new connections listed all backups %s later on %s; the status said so %s after that",
		at.Sub(began).Round(10*time.Millisecond), without.Round(10*time.Millisecond), to.Name(), told.Round(10*time.Millisecond))
	m.resume(t, tr)
	m.c.w.schedule(t, from, "uncordon")
	return without
}

// lists is nil if a client can list a backup's files by a new connection.
func (m *move) lists(t testing.TB, backup string) error {
	out, err := m.s.SFTP(t.Context(), t, "ls -1 /backups/"+backup+"/"+m.c.web.disk(0))
	if err == nil && !strings.Contains(out, "etc") {
		err = fmt.Errorf("%s has no etc: %q", backup, out)
	}
	return err
}

// on waits until all holders of the session run on a node, each ready.
func (m *move) on(t testing.TB, n *node.Node) {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		all := m.r.holders(t)
		if len(all) != 3 {
			return fmt.Errorf("there are %d holders, not a front and two of disks", len(all))
		}
		for _, p := range all {
			if err := ready(&p); err != nil {
				return err
			}
			if p.Spec.NodeName != n.Name() {
				return fmt.Errorf("pod %s/%s is on %s", p.Namespace, p.Name, p.Spec.NodeName)
			}
		}
		return nil
	})
}

// told is nil if the status says that the session is served, by the pod that does it on a node.
func (m *move) told(n *node.Node) error {
	if err := m.c.w.get(m.r.VirtualMachineFileRestore); err != nil {
		return err
	}
	if m.r.Status.Phase != v1alpha1.FileRestoreCompleted || m.r.Status.FileServingInfo == nil {
		return fmt.Errorf("the restore is %q: %s", m.r.Status.Phase, m.r.text())
	}
	var front corev1.Pod
	if err := m.c.w.admin.Get(context.Background(), client.ObjectKey{Namespace: m.r.names.Session, Name: m.r.Status.FileServingInfo.PodName}, &front); err != nil {
		return err
	}
	if front.Spec.NodeName != n.Name() {
		return fmt.Errorf("the status names %s, which is on %s", front.Name, front.Spec.NodeName)
	}
	return nil
}

// schedule lets pods be scheduled on a node (uncordon), or not (cordon).
func (w *world) schedule(t testing.TB, n *node.Node, whether string) {
	t.Helper()
	if _, err := w.kubectl(context.Background(), whether, n.Name()); err != nil {
		t.Error(err)
	}
}

// join lets a node join the suite's own, until the test ends.
func (w *world) join(t *testing.T) *node.Node {
	t.Helper()
	from := time.Now()
	n, err := w.node.Join(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.node.Find(n.Name()); err != nil || *keep && t.Failed() {
			return // it has left
		}
		if err := n.Leave(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%s had joined after %s", n.Name(), time.Since(from).Round(10*time.Millisecond))
	return n
}

// inhabited waits until every DaemonSet has its pod on a node, and all pods there are ready.
func (w *world) inhabited(t testing.TB, n *node.Node) {
	t.Helper()
	took := within(t, endLimit, func() error {
		var sets appsv1.DaemonSetList
		if err := w.admin.List(t.Context(), &sets); err != nil {
			return err
		}
		var pods corev1.PodList
		if err := w.admin.List(t.Context(), &pods, client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("spec.nodeName", n.Name())}); err != nil {
			return err
		}
		of := map[string]bool{}
		for _, p := range pods.Items {
			if err := ready(&p); err != nil {
				return err
			}
			of[p.Namespace] = true
		}
		for _, s := range sets.Items {
			if !of[s.Namespace] {
				return fmt.Errorf("%s has no pod of %s/%s", n.Name(), s.Namespace, s.Name)
			}
		}
		return nil
	})
	t.Logf("%s had all its pods %s later", n.Name(), took.Round(10*time.Millisecond))
}

// nothingMore waits until a node has no more than it had before.
func nothingMore(t testing.TB, n *node.Node, before left) {
	t.Helper()
	took := within(t, serveLimit, func() error {
		if more := leftOn(t, n).beside(before); len(more) > 0 {
			return fmt.Errorf("left on %s:\n%s", n.Name(), strings.Join(more, "\n"))
		}
		return nil
	})
	t.Logf("nothing was left on %s after %s", n.Name(), took.Round(10*time.Millisecond))
}
