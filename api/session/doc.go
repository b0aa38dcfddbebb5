// Package session is the contract between the controller and the node: the document that tells
// holders and worker what to serve (Session), the document in which the worker answers what
// became of it (Report), and the names of the files, devices and keys that both sides rely on.
//
// The controller writes Session into a ConfigMap and secrets beside it; a holder pod finds them
// at the paths below, opens what they name and hands it all to its node's agent. The Report
// travels the other way and is hostile input: a worker has parsed guests' bytes before it wrote
// it.
//
// Non-goals: no Kubernetes types and no messages between processes, which are agent/session's.
// Invariants: Decode refuses what Validate refuses; documents are small and their sizes bounded
// before they are parsed; the standard library is all that this package imports.
package session
