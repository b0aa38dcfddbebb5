// Package restore makes a VirtualMachineFileRestore true: it has Velero restore the volumes of a
// virtual machine's backups into namespaces of their own, has holders attach them, and says in
// the status how to reach the files and what became of every volume. Deleting the object removes
// all of it again.
//
// A reconciliation is a line of phases, functions over a scope: read, plan (package plan), apply,
// one status patch at the end. Nothing is remembered that a restart may not lose: names are
// computed from the UID, the selection of backups is frozen in the status before the first object
// is made, the disks and their order in the session's document, and that a backup was given up in an annotation
// of its namespace.
//
// Non-goals: no guest bytes and no storage credentials; no polling, except for Secrets outside
// Velero's namespace. Invariants: every wait is bounded by a limit of Options and has a reason; one backup's
// failure touches no other; nothing is deleted that does not carry this restore's UID, or Velero's
// mark of one of its Restores; the finalizer goes when nothing is left.
package restore
