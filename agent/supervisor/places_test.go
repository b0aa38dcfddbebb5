package supervisor

import (
	"context"
	"errors"
	"testing"
	"time"
)

// wish is an appliance of a session.
func wish(x *sess) *appliance { return &appliance{w: &worker{sess: x}} }

// taking asks for a place in the background, and returns when that is queued, or taken.
func taking(ctx context.Context, t *testing.T, p *places, a *appliance) <-chan error {
	t.Helper()
	done, waits := make(chan error, 1), make(chan struct{})
	go func() {
		err := p.take(ctx, a, func(int) { close(waits) })
		done <- err
	}()
	select {
	case <-waits:
	case err := <-done:
		done <- err
	case <-time.After(patience):
		t.Fatal("neither queued nor taken")
	}
	return done
}

func taken(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("no place was given")
	}
}

// TestPlaces: a free place goes to the session with the fewest, then to who came first.
func TestPlaces(t *testing.T) {
	p := &places{max: 2, turn: time.Hour, ask: func(*appliance) {}}
	one, two, three := &sess{}, &sess{}, &sess{}
	first, second := wish(one), wish(one)
	taken(t, taking(t.Context(), t, p, first))
	taken(t, taking(t.Context(), t, p, second))
	third, other, late := wish(one), wish(two), wish(three)
	waits := taking(t.Context(), t, p, third) // came first, and has two already
	others := taking(t.Context(), t, p, other)
	gone, cancel := context.WithCancelCause(t.Context())
	lates := taking(gone, t, p, late)
	p.give(first)
	taken(t, others)
	why := errors.New("its worker is gone")
	cancel(why)
	if err := <-lates; !errors.Is(err, why) {
		t.Errorf("one that gave up: %v", err)
	}
	select {
	case err := <-waits:
		t.Errorf("there are more than may run, %v", err)
	default:
	}
	p.give(other)
	taken(t, waits)
	p.give(second)
	p.give(third)
	if len(p.running) != 0 || len(p.waiting) != 0 {
		t.Errorf("%d run, %d wait", len(p.running), len(p.waiting))
	}
}

// TestTurn: who has had a turn makes room for another session that has waited for one, and for
// nobody else.
func TestTurn(t *testing.T) {
	one, two := &sess{}, &sess{}
	for _, c := range []struct {
		name        string
		by          *sess
		ran, waited time.Duration
		want        bool
	}{
		{"both long enough", two, 2 * time.Minute, 2 * time.Minute, true},
		{"it has had no turn", two, time.Second, 2 * time.Minute, false},
		{"nobody waited long", two, 2 * time.Minute, time.Second, false},
		{"its own session's", one, 2 * time.Minute, 2 * time.Minute, false},
	} {
		a, next := wish(one), wish(c.by)
		p := &places{max: 1, turn: time.Minute, running: []*appliance{a}, waiting: []*appliance{next, wish(two)}}
		a.began = time.Now().Add(-c.ran)
		if in := p.inTheWay(next, c.waited); len(in) != 1 || in[0] != a {
			t.Errorf("%s: %d are in the way", c.name, len(in))
		}
		if a.overdue.Load() != c.want {
			t.Errorf("%s: overdue is %v", c.name, a.overdue.Load())
		}
		if in := p.inTheWay(p.waiting[1], c.waited); len(in) != 0 {
			t.Errorf("%s: one that is not the first asks, too", c.name)
		}
	}
}
