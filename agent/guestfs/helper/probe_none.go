//go:build guestfs && !probe

package helper

// probe is where a test build tries what a hostile helper would.
func probe() {}
