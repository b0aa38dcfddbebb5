// Package sandbox names what the libguestfs engine tells its helper process by the environment,
// before any frame is sent.
package sandbox

// Variables of the helper's environment.
const (
	EnvDir        = "VMFR_APPLIANCE_DIR"        // the process's own directory
	EnvCache      = "VMFR_APPLIANCE_CACHE"      // where the built appliance is kept; empty: libguestfs' place
	EnvNamespaces = "VMFR_APPLIANCE_NAMESPACES" // set: it runs in namespaces of its own
	EnvConfined   = "VMFR_APPLIANCE_CONFINED"   // set by the helper itself: privileges are gone
)

// Socket is the descriptor of the helper's end of the socket pair.
const Socket = 3
