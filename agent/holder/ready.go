package holder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// checkLimit bounds one question whether a holder is ready.
const checkLimit = 2 * time.Second

// checkAddress is the abstract unix socket (unix(7)) on which a holder answers Check. A holder's
// root directory is read-only, and abstract names belong to the pod's network namespace, so
// nobody outside the pod can ask. The root tells the holders of a test apart.
func checkAddress(root, backup string) string {
	sum := sha256.Sum256([]byte(root + "\x00" + backup))
	return "@vmfr-hold-" + hex.EncodeToString(sum[:16])
}

// answer is what a holder says to whoever connects.
type answer struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// state is whether the holder's part is served.
type state struct {
	mu sync.Mutex
	answer
}

func (s *state) set(ready bool, reason string) {
	s.mu.Lock()
	s.answer = answer{ready, oneLine(reason)}
	s.mu.Unlock()
}

// serve answers at address until stop.
func (s *state) serve(address string) (stop func(), err error) {
	s.set(false, "starting")
	l, err := net.Listen("unix", address)
	if err != nil {
		return nil, fmt.Errorf("the socket for hold --check: %w; is another holder of this part running here?", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(checkLimit / 10) // out of descriptors: others may be closed soon
				continue
			}
			s.mu.Lock()
			b, err := json.Marshal(s.answer)
			s.mu.Unlock()
			if err == nil {
				_ = c.SetWriteDeadline(time.Now().Add(checkLimit))
				_, _ = c.Write(b)
			}
			_ = c.Close()
		}
	})
	return func() { _ = l.Close(); wg.Wait() }, nil
}

// Check asks the holder of the part in this pod whether it is ready: nil, or the reason why not.
func Check(ctx context.Context, root, backup string) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", checkAddress(root, backup))
	if err != nil {
		return fmt.Errorf("no holder of this part runs here: %w", err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(checkLimit))
	b, err := io.ReadAll(io.LimitReader(c, 64<<10))
	var a answer
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	switch {
	case err != nil:
		return fmt.Errorf("the holder does not answer: %w", err)
	case !a.Ready:
		return errors.New("not ready: " + a.Reason)
	}
	return nil
}
