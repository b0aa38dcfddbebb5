package e2e

import (
	"flag"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"vmfr/test/cluster/node"
)

// What the suite needs to know of a cluster. The defaults fit the node that it starts itself.
var (
	veleroNamespace = flag.String("velero-namespace", "velero", "where Velero and the file restores are")
	location        = flag.String("backup-location", "default", "the BackupStorageLocation for the backups")
	storageClass    = flag.String("storage-class", "", "for the machine's volumes; empty: the cluster's default")
	lateClass       = flag.String("late-storage-class", "", "one that waits for its first consumer; empty: that test is skipped")
	toolsImage      = flag.String("tools-image", "busybox:1.36", "an image with sh, dd and gzip, to fill volumes")
	vmfrImage       = flag.String("image", "", "vmfr's own image, for pods that attack the agent; empty: those tests are skipped")
	imageArchive    = flag.String("image-archive", "", "run what `make image-local` made, this `file`, on the suite's own node, not a slim image of this tree")
	loader          = flag.String("install-with", "", "install everything that is needed on a cluster for tests, whose nodes get images by this `command` and an archive's name, such as 'kind load image-archive'")
	reach           = flag.String("reach", "direct", "how clients reach a session's Service: direct (its address) or port-forward (kubectl)")
	record          = flag.String("record", "", "write the times and costs that were measured into this `file`, docs/benchmarks.md")
	keep            = flag.Bool("keep", false, "leave what a failed test made, for a look at it")
)

// endLimit is how long one step of Velero's or of a storage's may take on a busy machine.
const endLimit = 5 * time.Minute

// serveLimit is how long vmfr's own steps may take there.
const serveLimit = 2 * time.Minute

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	node.Main(m)
}
