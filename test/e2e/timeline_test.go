package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// timeline is when a file restore got where, seen from outside by watching its objects: Kubernetes'
// own times have whole seconds.
type timeline struct {
	w     *world
	start time.Time

	mu     sync.Mutex
	at     map[step]time.Duration // since the restore was created
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// step is one of the moments between the creation of a file restore and its first listing.
type step int

const (
	restoresMade  step = iota // the first Velero Restore exists
	restoresEnded             // the last one has ended; what needs no data mover is served before that
	podsMade                  // the last holder's pod exists
	podsRun                   // the last holder runs: volumes are attached, images there
	partsJoined               // the agent has heard of all backups
	disksOpen                 // all backups are readable
	told                      // the restore's status says so
	listed                    // a client has listed a folder
)

// watchTimes begins a timeline. It is to be called before the restore is created.
func (w *world) watchTimes(t testing.TB) *timeline {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &timeline{w: w, start: time.Now(), at: map[step]time.Duration{}, cancel: cancel}
	t.Cleanup(l.stop)
	c, err := client.NewWithWatch(w.Config, client.Options{Scheme: w.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]bool{}     // that run
	restores := map[string]bool{} // that have ended
	for _, of := range []struct {
		list client.ObjectList
		see  func(client.Object)
	}{
		{&velerov1.RestoreList{}, func(o client.Object) {
			r, ok := o.(*velerov1.Restore)
			if !ok || r.CreationTimestamp.Time.Before(l.start.Truncate(time.Second)) {
				return
			}
			l.first(restoresMade)
			if r.Status.CompletionTimestamp != nil && !restores[r.Name] {
				restores[r.Name] = true
				l.last(restoresEnded)
			}
		}},
		{&corev1.PodList{}, func(o client.Object) {
			p, ok := o.(*corev1.Pod)
			if !ok || p.Labels[v1alpha1.LabelOriginUUID] == "" || p.CreationTimestamp.Time.Before(l.start.Truncate(time.Second)) {
				return
			}
			name := p.Namespace + "/" + p.Name
			if _, known := pods[name]; !known {
				pods[name] = false
				l.last(podsMade)
			}
			if p.Status.Phase == corev1.PodRunning && !pods[name] {
				pods[name] = true
				l.last(podsRun)
			}
		}},
		{&corev1.ConfigMapList{}, func(o client.Object) {
			cm, ok := o.(*corev1.ConfigMap)
			if !ok || cm.CreationTimestamp.Time.Before(l.start.Truncate(time.Second)) || cm.Data[session.KeyReport] == "" {
				return
			}
			if text := cm.Data[session.KeyReport]; strings.Contains(text, `"disks"`) {
				l.first(partsJoined)
				if !strings.Contains(text, string(session.Waiting)) {
					l.first(disksOpen)
				}
			}
		}},
	} {
		if err := c.List(ctx, of.list); err != nil {
			t.Fatal(err)
		}
		events, err := c.Watch(ctx, of.list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: of.list.GetResourceVersion()}})
		if err != nil {
			t.Fatal(err)
		}
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			defer events.Stop()
			for e := range events.ResultChan() {
				if o, ok := e.Object.(client.Object); ok && (e.Type == watch.Added || e.Type == watch.Modified) {
					of.see(o)
				}
			}
		}()
	}
	return l
}

func (l *timeline) stop() {
	l.cancel()
	l.done.Wait()
}

// began is when the restore was created.
func (l *timeline) began() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = time.Now()
}

// first records a moment once, last its last occurrence.
func (l *timeline) first(s step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.at[s]; !ok {
		l.at[s] = time.Since(l.start)
	}
}

func (l *timeline) last(s step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[s] = time.Since(l.start)
}

// parts are the shares of the whole time, from creation to listing.
type parts struct {
	Controller time.Duration // from the creation to Velero's first Restore
	Velero     time.Duration // to the last Restore's end
	Pods       time.Duration // to the last holder's pod, as far as it came later
	Attach     time.Duration // to the last holder's start: scheduler, storage, kubelet
	Handover   time.Duration // to the report of all backups: holder, agent, worker, disks opened
	Status     time.Duration // to the status that says so
	List       time.Duration // to a client's listing
	All        time.Duration
}

// awaitParts waits until everything was seen, and returns the shares: what is watched is told beside
// what the test itself asks for, perhaps later.
func (l *timeline) awaitParts(t testing.TB) (p parts) {
	t.Helper()
	cluster.Await(t, serveLimit, func() (err error) {
		p, err = l.parts()
		return err
	})
	return p
}

// parts are computed when everything was seen. What happens at the same time as Velero's work, or
// as the attachment, takes no time of its own.
func (l *timeline) parts() (p parts, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := time.Duration(0)
	until := func(s step) time.Duration {
		at, ok := l.at[s]
		if !ok && s != restoresEnded {
			err = fmt.Errorf("step %d was not seen: %v", s, l.at)
		}
		from := last
		last = max(last, at)
		return last - from
	}
	p.Controller, p.Velero, p.Pods, p.Attach = until(restoresMade), until(restoresEnded), until(podsMade), until(podsRun)
	p.Handover = until(disksOpen)
	p.Status, p.List, p.All = until(told), until(listed), l.at[listed]
	return p, err
}

// Own is vmfr's share.
func (p parts) Own() time.Duration { return p.Controller + p.Pods + p.Handover + p.Status + p.List }

func (p parts) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("first file listed after %s: controller %s, Velero %s, pods made %s, attached and started %s, handed over and opened %s, status %s, listed %s; vmfr's own share %s",
		r(p.All), r(p.Controller), r(p.Velero), r(p.Pods), r(p.Attach), r(p.Handover), r(p.Status), r(p.List), r(p.Own()))
}
