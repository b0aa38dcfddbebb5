package worker

import (
	"context"
	"testing"

	"vmfr/agent/tree"
)

// TestProbe: a session that serves says so, also before and after.
func TestProbe(t *testing.T) {
	totals := &Totals{}
	if err := totals.Probe(t.Context()); err != nil {
		t.Errorf("before the session: %v", err)
	}
	ssh, https, _ := frontEnds(t)
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Backups: sampleBackups(t), SSH: ssh, HTTPS: https, Totals: totals, Ready: func(*tree.Tree) error { close(ready); return nil }})
	}()
	<-ready
	if totals.s.Load() == nil {
		t.Fatal("the session is not there")
	}
	if err := totals.Probe(t.Context()); err != nil {
		t.Errorf("of a session that serves: %v", err)
	}
	if n, _, _ := totals.Read().Latency.Cumulative(); n == 0 {
		t.Error("what the probe read was not counted")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
