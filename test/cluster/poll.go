package cluster

import (
	"context"
	"fmt"
	"time"
)

// Poll calls ready, with pauses, until it returns nil. When the context ends, the error says what
// was not ready. Tests have Await.
func Poll(ctx context.Context, pause time.Duration, ready func() error) error {
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
