package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"vmfr/agent/guestfs"
	"vmfr/agent/session"
	api "vmfr/api/session"
)

// TestLender: a worker asks for one appliance at a time, and takes no answer for another one's.
func TestLender(t *testing.T) {
	ours, theirs, err := session.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	sup, err := session.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer sup.Close()
	a := assignment{Configure: &session.Configure{Credentials: session.Credentials{DiskKeys: map[string][]byte{
		"a": []byte("one\n"), "b": []byte("zero\x00"), "c": []byte("two"),
	}}}}
	l, err := a.appliances(ours, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			m, err := ours.Receive(0)
			if err != nil {
				return
			}
			if !l.obey(m) {
				t.Errorf("%+v is not the lender's", m)
			}
			m.Close()
		}
	}()
	asked := func(backup string) {
		t.Helper()
		m, err := sup.Receive(nodePatience)
		if err != nil || m.Appliance == nil || m.Appliance.Backup != backup || m.Appliance.Disks != 2 {
			t.Fatalf("the worker asks for %+v, %v", m, err)
		}
	}
	answer := func(h session.Helper, files ...*os.File) {
		t.Helper()
		if err := sup.Send(&session.Message{Helper: &h, Files: files}, nodePatience); err != nil {
			t.Fatal(err)
		}
	}
	type lent struct {
		h   *guestfs.Helper
		err error
	}
	waits := make(chan string, 9)
	ask := func(ctx context.Context, backup string) <-chan lent {
		out := make(chan lent, 1)
		go func() {
			h, err := l.lend(ctx, backup, 2, func(s string) { waits <- s })
			out <- lent{h, err}
		}()
		return out
	}
	// unwanted sends the files of a helper that nobody takes, and returns when they are closed.
	unwanted := func() {
		t.Helper()
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		answer(session.Helper{Backup: "first"}, write, write, write)
		_ = write.Close()
		_ = read.SetReadDeadline(time.Now().Add(nodePatience))
		if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the helper that nobody took is open: %v", err)
		}
	}

	// A first one is waited for; the second is not asked for before that is answered.
	ctx, cancel := context.WithCancelCause(t.Context())
	first := ask(ctx, "first")
	asked("first")
	answer(session.Helper{Backup: "first", Waiting: "a place"})
	if s := <-waits; s != "a place" {
		t.Errorf("it waits for %q", s)
	}
	second := ask(t.Context(), "second")
	if s := <-waits; !strings.Contains(s, "another backup of this session") {
		t.Errorf("the second waits for %q", s)
	}
	// Whoever gives up gets nothing, and what comes for it is closed.
	cancel(errors.New("patience is at an end"))
	if got := <-first; got.h != nil || !strings.Contains(got.err.Error(), "patience is at an end") {
		t.Errorf("given up: %+v", got)
	}
	unwanted()
	asked("second")
	answer(session.Helper{Backup: "second", Error: "there is none"})
	if got := <-second; got.h != nil || got.err == nil || got.err.Error() != "there is none" {
		t.Errorf("refused: %+v", got)
	}
	third := ask(t.Context(), "first")
	asked("first")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	answer(session.Helper{Backup: "first"}, null, null, null)
	if got := <-third; got.h == nil || got.err != nil {
		t.Errorf("lent: %+v", got)
	} else {
		got.h.Close()
	}
	answer(session.Helper{Backup: "first", Waiting: "nobody asked"})
	unwanted()
	fourth := ask(t.Context(), "first")
	asked("first")
	answer(session.Helper{Backup: "first", Error: "the end"})
	if got := <-fourth; got.err == nil || got.err.Error() != "the end" {
		t.Errorf("after answers to nothing: %+v", got)
	}
}

// TestLenderOff: without appliances there is no engine, and what is said of one is not obeyed.
func TestLenderOff(t *testing.T) {
	l, err := (&assignment{Configure: &session.Configure{NoAppliance: "turned off"}, doc: &api.Session{}}).appliances(nil, nil)
	if err != nil || l.engine() != nil || l.obey(&session.Message{Spare: &session.Spare{}}) {
		t.Errorf("%+v, %v", l, err)
	}
}
