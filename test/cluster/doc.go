// Package cluster runs the real programs of a Kubernetes control plane for tests: they are built
// once from pinned sources into a cache directory, started on loopback, and stopped with the test.
//
// Non-goals: no containers and no nodes; nothing here is part of a product. Invariants: a test
// ends what it started and frees what it took; the cache may vanish at any time.
package cluster
