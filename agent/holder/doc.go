// Package holder is the pod that lends a session's volumes and its network address to the node's
// agent. It opens what Kubernetes attached to it, read-only, opens the listening sockets, hands
// all of it over the agent's unix socket, and stays: the session's part lasts as long as this
// process is connected or can be expected to connect again.
//
//	/dev/vmfr/0, /vmfr/disks/1/disk.img ─┐
//	[::]:2222, [::]:8443                 ├── SCM_RIGHTS ──> agent.sock
//	document, credentials, token, key   ─┘
//
// A holder holds one part of a session: the front (listeners and credentials) or one backup (its
// disks). It keeps its own descriptors open throughout, so that clients wait in the listen
// backlog while the agent is upgraded.
//
// Non-goals: it reads no byte of a disk and answers no client. Invariants: it opens nothing for
// writing; it never gives up connecting; told to end, it ends when the agent has confirmed that
// its descriptors are closed there too, or after Config.Patience.
package holder
