// Package discovery finds the backups that hold a virtual machine: the controller of
// VirtualMachineBackupsDiscovery.
//
// A discovery is a run: candidates are chosen by name and time, and each is examined from what
// costs nothing (its specification and phase) to what costs most (its contents). Runs go on outside
// Reconcile, in a bounded pool; Reconcile alone writes status, from what the run has found so far.
//
// Non-goals: nothing is restored; backups that are made later do not change a discovery that has
// ended. Invariants: the status is all that a restarted controller needs to go on; what it says is
// true whenever it is written; it fits into an object.
package discovery
