// Package supervisor is the node's agent: it takes descriptors from holders and gives each
// session's to a worker of its own, which it keeps alive.
//
//	holder ─┐                                    ┌─ worker (sandbox)
//	holder ─┼─ agent.sock ─ part ┐               │
//	holder ─┘               part ┼─ session ─────┼─ worker (draining)
//	                        part ┘               └─ ...
//
// A holder brings one part of a session: the front or one backup. A worker serves a fixed set of
// parts. When the set or the credentials change, a new worker is started with the same listeners;
// the old one is told to accept no more: where a part was added, it may end its transfers in
// peace (drainLimit); where a part or a credential is gone, it has endLimit. The supervisor keeps
// its own copies of all descriptors, so that a worker's death closes nothing.
//
// Who may speak for what: a TokenReview tells the holder's pod, namespace and service account; the
// join key, whose SHA-256 is the session's id, proves that it belongs to the session. A part that
// is held is given up only to a holder of the same namespace and service account. All holders of
// a session must bring the document of the same file restore; each decides about its own part.
//
// Non-goals: no guest's byte is read here, no file opened but the kernel's own, no Secret and no
// pod asked for. Invariants: what comes from a holder or a worker is bounded and validated
// (agent/session); no lock is held across a send, a start or a wait; a part's descriptors are
// closed, here and in every worker, before its holder is told so.
package supervisor
