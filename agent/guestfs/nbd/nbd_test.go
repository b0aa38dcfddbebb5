package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// holed is a device whose bytes at bad cannot be read.
type holed struct {
	extent.Reader
	bad int64
}

var errMedium = errors.New("medium error")

func (h holed) ReadAt(p []byte, off int64) (int, error) {
	if off <= h.bad && h.bad < off+int64(len(p)) {
		return 0, errMedium
	}
	return h.Reader.ReadAt(p, off)
}

func serve(t *testing.T, r extent.Reader, failed func(int64, error)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- Serve(l, r, failed) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestQEMU: the reference client reads the same bytes, cannot write, and meets one unreadable
// range as an error of that range.
func TestQEMU(t *testing.T) {
	fixture.Need(t, "qemu-img", "qemu-io")
	want := make([]byte, 3<<20+512)
	for i := range want[:1<<20] {
		want[i] = byte(i * 7 / 5)
	}
	const bad = 2 << 20
	failures := make(chan int64, 100)
	path := serve(t, holed{extent.Bytes(want), bad}, func(off int64, err error) {
		if errors.Is(err, errMedium) {
			failures <- off
		}
	})
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(fixture.Run(t, "qemu-img", "info", "--output=json", "nbd:unix:"+path)), &info); err != nil || info.Size != int64(len(want)) {
		t.Errorf("size %d, %v; want %d", info.Size, err, len(want))
	}
	out := filepath.Join(t.TempDir(), "out")
	fixture.Run(t, "qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", "count=2", "if=nbd:unix:"+path, "of="+out)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want[:2<<20]) {
		t.Errorf("other bytes: %v", err)
	}
	for _, c := range []struct {
		cmd string
		ok  bool
	}{{"read 2M 512", false}, {"read 1M 512", true}, {"read 3M 512", true}} {
		b, err := exec.Command("qemu-io", "-r", "-f", "raw", "-c", c.cmd, "nbd:unix:"+path).CombinedOutput()
		if ok := err == nil && !bytes.Contains(b, []byte("failed")); ok != c.ok {
			t.Errorf("%s: %v\n%s", c.cmd, err, b)
		}
	}
	if len(failures) == 0 || <-failures > bad {
		t.Error("the failure was not told")
	}
	if err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", "nbd:unix:"+path).Run(); err == nil {
		t.Error("a write succeeded")
	}
}

// conversation is a client's bytes; what the server says is kept.
type conversation struct {
	io.Reader
	bytes.Buffer
}

func (c *conversation) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func script(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func request(cmd uint16, off uint64, n uint32) []byte {
	return script(uint32(magicRequest), uint16(0), cmd, uint64(42), off, n)
}

// TestHostileClient: requests out of range are refused one by one; lengths that lie end the
// connection before anything is allocated for them.
func TestHostileClient(t *testing.T) {
	hello := script(uint32(flagFixedNewstyle|flagNoZeroes), uint64(magicOption), uint32(optExportName), uint32(0))
	for _, c := range []struct {
		name  string
		input []byte
		err   error
		codes []uint32
	}{
		{"past the end", append(hello[:len(hello):len(hello)], request(cmdRead, 4096, 1)...), nil, []uint32{errInval}},
		{"offset overflows", append(hello[:len(hello):len(hello)], request(cmdRead, 1<<64-1, 2)...), nil, []uint32{errInval}},
		{"too large", append(hello[:len(hello):len(hello)], request(cmdRead, 0, 1<<32-1)...), nil, []uint32{errInval}},
		{"nothing", append(hello[:len(hello):len(hello)], request(cmdRead, 0, 0)...), nil, []uint32{errInval}},
		{"unknown command", append(hello[:len(hello):len(hello)], request(77, 0, 0)...), nil, []uint32{errInval}},
		{"write", append(append(hello[:len(hello):len(hello)], request(cmdWrite, 0, 3)...), 1, 2, 3), nil, []uint32{errPerm}},
		{"no request", append(hello[:len(hello):len(hello)], make([]byte, 28)...), ErrProtocol, nil},
		{"option of 4 GiB", script(uint32(0), uint64(magicOption), uint32(optGo), uint32(1<<32-1)), ErrProtocol, nil},
		{"no option", script(uint32(0), uint64(1), uint32(optGo), uint32(0)), ErrProtocol, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			conv := &conversation{Reader: bytes.NewReader(c.input)}
			err := Handle(conv, extent.Bytes(make([]byte, 4096)), nil)
			if !errors.Is(err, c.err) && !(c.err == nil && err == nil) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			said := conv.Bytes()
			for _, want := range c.codes {
				reply := said[18+10:] // after greeting and size
				if len(reply) < 16 || binary.BigEndian.Uint32(reply[4:]) != want || binary.BigEndian.Uint64(reply[8:]) != 42 {
					t.Errorf("reply % x, want error %d", reply, want)
				}
			}
		})
	}
}

// FuzzHandle: whatever a client sends, the server ends with it and reads nothing but the device.
func FuzzHandle(f *testing.F) {
	hello := script(uint32(flagFixedNewstyle|flagNoZeroes), uint64(magicOption), uint32(optGo), uint32(6), uint32(0), uint16(0))
	f.Add(append(hello[:len(hello):len(hello)], request(cmdRead, 0, 512)...))
	f.Add(script(uint32(0), uint64(magicOption), uint32(optList), uint32(0), uint64(magicOption), uint32(optAbort), uint32(0)))
	f.Add(append(hello[:len(hello):len(hello)], request(cmdWrite, 0, 3)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		conv := &conversation{Reader: bytes.NewReader(input)}
		err := Handle(conv, extent.Bytes(make([]byte, 4096)), func(off int64, err error) { t.Errorf("read at %d: %v", off, err) })
		if err != nil && !errors.Is(err, ErrProtocol) && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	})
}
