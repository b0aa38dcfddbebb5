// Package session is what holder, supervisor and worker say to each other over unix sockets.
//
//	holder ── agent.sock ── supervisor ── socket pair ── worker
//	                             serve ── socket pair ── worker
//
// One message is a frame: a header of headerSize bytes, then one JSON object.
//
//	0      4         6       8         12
//	+------+---------+-------+---------+----------- - - -
//	| vmfr | version | files | length  | JSON, length bytes
//	+------+---------+-------+---------+----------- - - -
//
// Numbers are big-endian. The descriptors come as one SCM_RIGHTS message (unix(7)) with the
// header, files of them. A holder speaks first, with a Hello; the supervisor answers Accepted or
// Refused, and from then on both sides may send.
//
// Both ends are hostile to each other: a holder is a pod of somebody's namespace, and a worker
// has read what guests wrote. Invariants: a message is bounded before it is read and validated
// before it is given out; a descriptor is close-on-exec from the start; a message that is
// refused leaves no descriptor open; every Send and Receive has a deadline or an end.
//
// Non-goals: no authentication (tokens and keys are carried, the supervisor checks them) and no
// meaning of a session's document, which is api/session's.
package session
