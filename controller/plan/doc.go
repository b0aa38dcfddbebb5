// Package plan computes the objects of a file restore: values in, Kubernetes objects out. The
// names and the tasks of the objects are decision 009's; docs/objects.md lists them for
// administrators.
//
// Use: Input says what is to be served, NewMaterial makes or reads what is secret, Build puts
// both into objects, and Plan hands them out in the order in which they are to be applied.
//
// Non-goals: no client, no clock and no status; what exists in the cluster is an argument.
// Invariants: the same arguments give the same objects, byte for byte, on every controller and
// after every restart; only NewMaterial takes randomness, and only for what does not exist yet;
// no error and no label or annotation holds a secret; nothing is written into a caller's value.
package plan
