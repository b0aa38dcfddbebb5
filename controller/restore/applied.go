package restore

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// repair is how often a session's objects of kinds that are not watched are applied again, Secrets, Services and
// NetworkPolicies among them: what somebody deleted or changed comes back, and what expires is renewed.
const repair = 10 * time.Minute

// trust is how long such an object is taken to be as it was applied. It ends before the repair.
const trust = repair - time.Minute

// applied remembers what was applied, so that following a data mover's progress does not write 30 objects each
// time. A change of a watched object makes it forget; a restart does, too.
type applied struct {
	mu   sync.Mutex
	seen map[types.UID]memory // by the file restore
}

// memory is what was applied of one file restore, by the object. It is written and read by applied's methods.
type memory map[string]application

type application struct {
	sum  [sha256.Size]byte
	when time.Time
}

// digest is an object's key and the sum of its content.
func digest(u *unstructured.Unstructured) (key string, sum [sha256.Size]byte, err error) {
	b, err := json.Marshal(u.Object)
	return u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName(), sha256.Sum256(b), err
}

// of returns what is remembered of a file restore. Who asks before he applies, and notes it there, notes nothing if it
// was forgotten since: word of somebody's change can come before the API server's answer.
func (a *applied) of(uid types.UID) memory {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[types.UID]memory{}
	}
	if a.seen[uid] == nil {
		a.seen[uid] = memory{}
	}
	return a.seen[uid]
}

// has tells whether this very content was applied a short while ago.
func (a *applied) has(m memory, key string, sum [sha256.Size]byte, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := m[key]
	return ok && last.sum == sum && now.Sub(last.when) < trust
}

func (a *applied) add(m memory, key string, sum [sha256.Size]byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m[key] = application{sum, now}
}

// forget has everything of a file restore applied again.
func (a *applied) forget(of types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.seen, of)
}

// notice forgets what was applied when a watched object was deleted, or changed by whomever.
func (a *applied) notice() predicate.Predicate {
	forget := func(o client.Object) { a.forget(types.UID(o.GetLabels()[v1alpha1.LabelOriginUUID])) }
	return predicate.Funcs{
		DeleteFunc: func(e ctrlevent.DeleteEvent) bool {
			forget(e.Object)
			return true
		},
		UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
			if edited(e.ObjectOld, e.ObjectNew) {
				forget(e.ObjectOld)
			}
			return true
		},
	}
}

// edited tells whether more than the status differs. The node's report is no edit.
func edited(from, to client.Object) bool {
	if a, ok := from.(*corev1.ConfigMap); ok {
		if b, ok := to.(*corev1.ConfigMap); ok && !isReport(a) && !isReport(b) && !reflect.DeepEqual(a.Data, b.Data) {
			return true
		}
	}
	return from.GetGeneration() != to.GetGeneration() || !maps.Equal(from.GetLabels(), to.GetLabels()) || !maps.Equal(from.GetAnnotations(), to.GetAnnotations())
}

func isReport(c *corev1.ConfigMap) bool {
	_, ok := c.Data[session.KeyReport]
	return ok
}
