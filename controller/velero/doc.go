// Package velero is the only room that knows Velero: what a backup holds, read from its metadata
// in object storage, and the Restores that bring volumes back.
//
// Non-goals: no backup is made or deleted, no credential of an object store is touched (Velero
// signs the addresses that are read), nothing of a volume's data passes here. Invariants: what a
// backup contains is untrusted, so every parser streams and has a bound for each thing that it
// remembers; an error names no signed address.
package velero
