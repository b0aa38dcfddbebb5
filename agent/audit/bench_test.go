package audit

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// BenchmarkFile records files that are opened, read in pieces and closed, up to the line in the log's file.
// cpu-ns/file is the processor time of both sides of the queue; with it, what a server needs for a file
// without a log tells the log's share.
func BenchmarkFile(b *testing.B) {
	for name, pieces := range map[string]int{"one piece": 1, "4096 pieces": 4096} {
		b.Run(name, func(b *testing.B) {
			l, err := Open(filepath.Join(b.TempDir(), "log"))
			if err != nil {
				b.Fatal(err)
			}
			who := Who{Session: NewSession(), Via: "ssh", User: "oadp", Key: "SHA256:0123456789012345678901234567890123456789012", Address: "192.0.2.7:40000"}
			before := used()
			for b.Loop() {
				f := l.Open(who, "/backups/nightly/rootdisk/usr/share/doc/some-package/changelog.Debian.gz", int64(pieces)*4096)
				for i := range pieces {
					f.Read(int64(i)*4096, 4096, nil)
				}
				f.Close()
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/file")
		})
	}
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
