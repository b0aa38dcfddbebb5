package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"vmfr/test/cluster"
	"vmfr/test/cluster/node"
	"vmfr/test/fixture"
)

// TestDownBesideStart: a cluster is taken down while another one is started, which removes what dead ones left.
func TestDownBesideStart(t *testing.T) {
	fixture.NeedRoot(t)
	t.Setenv(cluster.CacheEnv, t.TempDir())
	claim := func() (string, error) {
		dir, lock, err := node.Claim(context.Background(), "")
		if err != nil {
			return "", err
		}
		return dir, lock.Close() // as the end of a node's init does
	}
	for range 5 {
		dir, err := claim()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "node.json"), []byte(`{"cluster": "0123456789abcdef", "number": 1}`), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range 2000 { // to remove it takes a while
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		started := make(chan error)
		go func() {
			_, err := claim()
			started <- err
		}()
		if err := node.Down(t.Context(), dir); err != nil {
			t.Errorf("down: %v", err)
		}
		if err := <-started; err != nil {
			t.Errorf("start: %v", err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("left: %s (%v)", dir, err)
		}
	}
}
