package supervisor

import (
	"reflect"
	"testing"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// TestLateMessages: a holder changes credentials, connects again with newer ones, and the agent reads what came through
// the first connection only then.
func TestLateMessages(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	r := n.newRestore()
	r.mustJoin("one", "")
	r.mustJoin(frontPart, "v0")
	n.mu.Lock()
	x := n.sessions[r.doc.ID]
	n.mu.Unlock()
	x.mu.Lock()
	front := x.parts[frontPart]
	first := front.peer
	x.mu.Unlock()
	r.mustJoin(frontPart, "v2")

	x.update(front, first, session.Credentials{SSHUser: []byte("v1")})
	x.leave(front, first, "as asked")
	r.hears("v2 1")
	x.mu.Lock()
	now := front.peer
	x.mu.Unlock()
	x.update(front, now, session.Credentials{SSHUser: []byte("v3")})
	r.hears("v3 1")
}

func TestMerged(t *testing.T) {
	backup := func(name string, disks ...string) api.Backup {
		b := api.Backup{Name: name}
		for _, d := range disks {
			b.Disks = append(b.Disks, api.Disk{Name: d})
		}
		return b
	}
	doc := func(browser bool, backups ...api.Backup) *api.Session {
		s := &api.Session{ID: "id", Backups: backups}
		if browser {
			s.Browser = &api.Browser{}
		}
		return s
	}
	was := doc(false, backup("a", "1"), backup("b", "1"))
	for name, c := range map[string]struct {
		doc  *api.Session
		part string
		held []string
		want *api.Session
	}{
		"the same":                     {doc(false, backup("a", "1"), backup("b", "1")), "a", nil, was},
		"a backup has its own disks":   {doc(true, backup("a", "1", "2"), backup("b")), "a", nil, doc(false, backup("a", "1", "2"), backup("b", "1"))},
		"a backup is new":              {doc(false, backup("c", "1")), "c", nil, doc(false, backup("a", "1"), backup("b", "1"), backup("c", "1"))},
		"the front decides the rest":   {doc(true, backup("b", "3")), frontPart, nil, doc(true, backup("b", "3"))},
		"but not about what is held":   {doc(true, backup("b", "3")), frontPart, []string{"b"}, doc(true, backup("b", "1"))},
		"nor that it is forgotten":     {doc(true, backup("b", "3")), frontPart, []string{"a"}, doc(true, backup("b", "3"), backup("a", "1"))},
		"a part that is not mentioned": {doc(true), "a", nil, was},
	} {
		parts := map[string]*part{}
		for _, h := range c.held {
			parts[h] = &part{}
		}
		if got := merged(was, c.doc, c.part, parts); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if !reflect.DeepEqual(was, doc(false, backup("a", "1"), backup("b", "1"))) {
		t.Errorf("the document before was changed: %+v", was)
	}
}
