package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

type stream struct {
	io.Reader
	io.Writer
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	c := NewConn(stream{&b, &b})
	sent := Reply{ID: 7, More: true, Entries: []Entry{{Name: []byte("not utf-8 \xff\x00"), Attr: &Attr{Ino: 1<<63 - 1, Mtime: [2]int64{-1, 5}}, Target: []byte("\xfe")}}}
	payload := bytes.Repeat([]byte{0, 1}, 70_000)
	if err := c.Send(&sent, payload); err != nil {
		t.Fatal(err)
	}
	var got Reply
	p, err := c.Receive(&got)
	if err != nil || !bytes.Equal(p, payload) || !reflect.DeepEqual(got, sent) {
		t.Errorf("%+v, %d bytes, %v", got, len(p), err)
	}
	if _, err := c.Receive(&got); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestLimits(t *testing.T) {
	c := NewConn(stream{nil, io.Discard})
	if err := c.Send(&Reply{Err: &Error{Message: strings.Repeat("x", MaxHeader)}}, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("header: %v", err)
	}
	if err := c.Send(&Reply{}, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("payload: %v", err)
	}
	frame := func(h, p uint32, rest string) io.Reader {
		b := binary.BigEndian.AppendUint32(nil, h)
		b = binary.BigEndian.AppendUint32(b, p)
		return bytes.NewReader(append(b, rest...))
	}
	for _, c := range []struct {
		name string
		in   io.Reader
		want error
	}{
		{"header too long", frame(MaxHeader+1, 0, ""), ErrFrame},
		{"payload too long", frame(2, 1<<32-1, "{}"), ErrFrame},
		{"no JSON", frame(2, 0, "{x"), ErrFrame},
		{"cut", frame(20, 0, "{}"), io.ErrUnexpectedEOF},
		{"cut before the header", frame(20, 0, ""), io.ErrUnexpectedEOF},
	} {
		if _, err := NewConn(stream{c.in, nil}).Receive(&Reply{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
