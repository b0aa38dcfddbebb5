package session

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	api "vmfr/api/session"
)

const patience = 20 * time.Second

// pair is two ends of a connection; the second one as a plain socket too.
func pair(t testing.TB) (*Conn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return NewConn(ends[0]), ends[1]
}

// descriptors counts those of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// closedAgain waits until there are no more than before: what strangers sent is closed aside.
func closedAgain(t testing.TB, before int) {
	t.Helper()
	for until := time.Now().Add(patience); descriptors(t) != before; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("%d descriptors before, %d after", before, descriptors(t))
			return
		}
	}
}

// readOnly opens n files.
func readOnly(t testing.TB, n int) []*os.File {
	t.Helper()
	var files []*os.File
	for range n {
		f, err := os.Open("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		files = append(files, f)
	}
	return files
}

func hello(disks int) *Message {
	return &Message{Hello: &Hello{
		Token: "token", JoinKey: make([]byte, api.JoinKeyBytes), Session: "{}",
		Part: Part{Backup: "nightly", Disks: make([]Disk, disks)},
	}}
}

func frame(files int, body string) []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[4:], Version)
	binary.BigEndian.PutUint16(b[6:], uint16(files))
	binary.BigEndian.PutUint32(b[8:], uint32(len(body)))
	return append(b, body...)
}

func TestMessages(t *testing.T) {
	c, far := pair(t)
	other := NewConn(far)
	want := hello(3)
	want.Hello.Part.Disks[1] = Disk{Error: "it is not there"}
	want.Files = readOnly(t, 2)
	if err := c.Send(want, patience); err != nil {
		t.Fatal(err)
	}
	got, err := other.Receive(patience)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if !reflect.DeepEqual(got.Hello, want.Hello) || len(got.Files) != 2 {
		t.Fatalf("%+v with %d files", got.Hello, len(got.Files))
	}
	for i, f := range got.Files {
		a, _ := want.Files[i].Stat()
		b, err := f.Stat()
		if err != nil || !os.SameFile(a, b) {
			t.Errorf("file %d is another one: %v", i, err)
		}
		if err := control(f, func(fd int) error {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if err == nil && flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("file %d is inherited by children", i)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	for _, m := range []*Message{
		{Update: &Update{Credentials{Password: []byte("x"), DiskKeys: map[string][]byte{"a": {0, 1}}}}}, {Closing: &Closing{}},
		{Accepted: &Accepted{ID: "id"}}, {Refused: &Refused{Reason: "why"}}, {Closed: &Closed{}}, {Run: &Run{}}, {Drain: &Drain{}},
		{Stats: &Stats{ReadBytes: 1 << 63}}, {Appliance: &Appliance{Backup: "nightly", Disks: 3}}, {Helper: &Helper{Backup: "nightly", Waiting: "why"}},
		{Helper: &Helper{Backup: "nightly", Error: "why"}}, {Spare: &Spare{}}, {Report: json.RawMessage(`{"a":1}`)}, {Configure: &Configure{Session: json.RawMessage("{}")}},
	} {
		if err := other.Send(m, patience); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Receive(patience); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
	}
	_ = other.Close()
	if _, err := c.Receive(patience); err != io.EOF {
		t.Errorf("a closed connection: %v", err)
	}
}

func TestRefused(t *testing.T) {
	valid, err := json.Marshal(hello(1))
	if err != nil {
		t.Fatal(err)
	}
	var many []byte
	for range MaxFiles + 1 {
		many = append(many, "{},"...)
	}
	for name, c := range map[string]struct {
		bytes []byte
		files int
		want  string
	}{
		"no message":         {[]byte("GET / HTTP/1.1\r\n"), 0, "no vmfr message"},
		"another version":    {append([]byte("vmfr\x00\x02"), make([]byte, 6)...), 0, "different releases"},
		"too long":           {[]byte("vmfr\x00\x01\x00\x00\xff\xff\xff\xff"), 0, "exceeds the limit"},
		"too many announced": {[]byte("vmfr\x00\x01\x00\xff\x00\x00\x00\x00"), 0, "exceed the limit"},
		"truncated":          {frame(1, string(valid))[:40], 1, "unexpected EOF"},
		"truncated header":   {frame(1, string(valid))[:7], 1, "unexpected EOF"},
		"more than told":     {frame(1, string(valid)), 2, "2 descriptors came"},
		"fewer than told":    {frame(1, string(valid)), 0, "0 descriptors came"},
		"too many":           {frame(1, string(valid)), MaxFiles + 8, "more than"},
		"too few disks":      {frame(0, string(valid)), 0, "1 were announced"},
		"no JSON":            {frame(1, "{"), 1, "not valid JSON"},
		"an unknown field":   {frame(1, `{"secret":"hunter2"}`), 1, "not valid JSON"},
		"two values":         {frame(0, `{"run":{}} {}`), 0, "more than one"},
		"no kind":            {frame(0, `{}`), 0, "0 kinds"},
		"two kinds":          {frame(0, `{"run":{},"drain":{}}`), 0, "2 kinds"},
		"many disks":         {frame(0, `{"part":{"backup":"a","disks":[`+string(many)+`{}]}}`), 0, "disks, not 1"},
		"disks of no backup": {frame(0, `{"part":{"disks":[{"error":"x"}]}}`), 0, "without a backup"},
		"an odd format":      {frame(1, `{"part":{"backup":"a","disks":[{"format":"vmdk"}]}}`), 1, "neither raw nor qcow2"},
		"a long text":        {frame(0, `{"refused":{"reason":"`+strings.Repeat("x", MaxText+1)+`"}}`), 0, "a text of"},
		"a long report":      {frame(0, `{"report":"`+strings.Repeat("x", api.MaxReportBytes)+`"}`), 0, "a report of"},
		"too many for one":   {frame(0, `{"appliance":{"backup":"a","disks":65}}`), 0, "65 disks, not 1"},
		"for no backup":      {frame(0, `{"appliance":{"disks":1}}`), 0, "a backup's name of 0"},
		"a bare helper":      {frame(0, `{"helper":{"backup":"a"}}`), 0, "3 were announced"},
		"a helper with more": {frame(1, `{"helper":{"backup":"a","error":"x"}}`), 1, "0 were announced"},
		"a helper of two":    {frame(0, `{"helper":{"backup":"a","error":"x","waiting":"y"}}`), 0, "an answer that is two"},
		"no token":           {frame(1, strings.Replace(string(valid), `"token":"token"`, `"token":""`, 1)), 1, "a token of"},
		"a short key":        {frame(1, strings.Replace(string(valid), "AAAA", "", 1)), 1, "a join key of"},
	} {
		t.Run(name, func(t *testing.T) {
			files := readOnly(t, c.files)
			conn, far := pair(t)
			before := descriptors(t)
			var fds []int
			for _, f := range files {
				fds = append(fds, int(f.Fd()))
			}
			var rights []byte
			if len(fds) > 0 {
				rights = unix.UnixRights(fds...)
			}
			first := min(len(c.bytes), headerSize)
			if _, _, err := far.WriteMsgUnix(c.bytes[:first], rights, nil); err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			go func() { // it can be more than a socket holds
				_, _ = far.Write(c.bytes[first:])
				_ = far.CloseWrite()
				close(sent)
			}()
			m, err := conn.Receive(patience)
			<-sent
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v; want %q", m, err, c.want)
			}
			if strings.Contains(c.want, "EOF") != errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(c.want, "EOF") && !errors.Is(err, ErrProtocol) {
				t.Errorf("%v is of the wrong kind", err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v quotes what may be secret", err)
			}
			closedAgain(t, before)
		})
	}
}

// TestLateDescriptors sends descriptors with the body, where nobody expects them.
func TestLateDescriptors(t *testing.T) {
	c, far := pair(t)
	f := readOnly(t, 1)
	before := descriptors(t)
	b := frame(0, `{"run":{}}`)
	if _, err := far.Write(b[:headerSize]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := far.WriteMsgUnix(b[headerSize:], unix.UnixRights(int(f[0].Fd())), nil); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Receive(patience); !errors.Is(err, ErrProtocol) {
		t.Errorf("%+v, %v", m, err)
	}
	closedAgain(t, before)
}

func TestStalls(t *testing.T) {
	files := readOnly(t, 1)
	t.Run("silent", func(t *testing.T) {
		c, _ := pair(t)
		if _, err := c.Receive(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("in the middle", func(t *testing.T) {
		c, far := pair(t)
		c.frame = 10 * time.Millisecond
		before := descriptors(t)
		if _, _, err := far.WriteMsgUnix(frame(1, "{}")[:13], unix.UnixRights(int(files[0].Fd())), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(0); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		closedAgain(t, before)
	})
	t.Run("not reading", func(t *testing.T) {
		c, _ := pair(t)
		m := &Message{Update: &Update{Credentials{Password: bytes.Repeat([]byte("x"), 700<<10)}}}
		var err error
		for range 16 { // more than the socket's buffer
			if err = c.Send(m, 50*time.Millisecond); err != nil {
				break
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if err := c.Send(m, patience); err == nil {
			t.Error("a connection with half a frame on it is used on")
		}
	})
}

func TestCheckDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path  string
		flags int
		mode  api.Mode
		want  string
	}{
		"a file":           {path, os.O_RDONLY, api.Filesystem, ""},
		"a file to write":  {path, os.O_RDWR, api.Filesystem, "for reading and nothing else"},
		"only to write":    {path, os.O_WRONLY, api.Filesystem, "for reading and nothing else"},
		"not open at all":  {path, unix.O_PATH, api.Filesystem, "for reading and nothing else"},
		"a file as device": {path, os.O_RDONLY, api.Block, "file type"},
		"a folder":         {t.TempDir(), os.O_RDONLY, api.Filesystem, "file type"},
		"a terminal":       {"/dev/null", os.O_RDONLY, api.Block, "file type"},
	} {
		f, err := os.OpenFile(c.path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = CheckDisk(f, c.mode)
		_ = f.Close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := CheckListener(f); err != nil {
		t.Error(err)
	}
	u, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	uf, err := u.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	idle := os.NewFile(uintptr(fd), "socket")
	defer idle.Close()
	for name, f := range map[string]*os.File{"a unix socket": uf, "not listening": idle, "no socket": readOnly(t, 1)[0]} {
		if err := CheckListener(f); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// FuzzReceive sends arbitrary bytes with descriptors.
func FuzzReceive(f *testing.F) {
	for _, m := range []*Message{hello(1), {Run: &Run{}}, {Report: json.RawMessage(`{}`)}, {Configure: &Configure{Session: json.RawMessage("{}")}}} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		files := 0
		if m.Hello != nil {
			files = 1
		}
		f.Add(frame(files, string(b)), byte(files))
	}
	f.Fuzz(func(t *testing.T, b []byte, n byte) {
		if len(b) > 100<<10 {
			return // what a socket holds without a reader
		}
		files := readOnly(t, int(n%80))
		c, far := pair(t)
		before := descriptors(t)
		var rights []byte
		if len(files) > 0 {
			var fds []int
			for _, f := range files {
				fds = append(fds, int(f.Fd()))
			}
			rights = unix.UnixRights(fds...)
		}
		if len(b) > 0 {
			if _, _, err := far.WriteMsgUnix(b, rights, nil); err != nil {
				t.Fatal(err)
			}
		}
		_ = far.CloseWrite()
		for {
			m, err := c.Receive(patience)
			if err != nil {
				break
			}
			if err := m.validate(len(m.Files)); err != nil {
				t.Errorf("what is invalid was received: %v", err)
			}
			m.Close()
		}
		closedAgain(t, before)
	})
}
