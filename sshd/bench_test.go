package sshd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/test/fixture"
)

// BenchmarkGet compares one large file fetched by OpenSSH's sftp from this server with the same
// from OpenSSH's sshd and sftp-server on the kernel's mount of the same image. Run it with
//
//	go test ./sshd -run '^$' -bench Get -benchtime 5x
//
// VMFR_BENCH_MIB sets the file's size (1024).
func BenchmarkGet(b *testing.B) {
	fixture.Need(b, "sftp", "mke2fs", "losetup")
	fixture.NeedRoot(b)
	mib := 1024
	if v := os.Getenv("VMFR_BENCH_MIB"); v != "" {
		if _, err := fmt.Sscan(v, &mib); err != nil {
			b.Fatal(err)
		}
	}
	src := b.TempDir()
	fixture.Run(b, "dd", "if=/dev/urandom", "of="+filepath.Join(src, "big"), "bs=1M", fmt.Sprintf("count=%d", mib))
	img := fixture.Ext4(b, src, int64(mib+128)<<20)
	mnt := fixture.Mount(b, img, "ext4", "ro,noload", 0, 0)
	ours := serve(b, newTree(b, engine.Native(), fixture.OpenRaw(b, img)), nil)
	port := opensshServer(b, ours)
	for _, cipher := range []string{"aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"} {
		var us, them []float64
		get := func(into *[]float64, port, path string) {
			d := ours.get(port, cipher, path)
			*into = append(*into, float64(mib)/d.Seconds())
		}
		b.Run(cipher, func(b *testing.B) {
			us, them = nil, nil
			var cpu time.Duration
			for b.Loop() {
				before := cpuTime(b)
				get(&us, ours.port, "/backups/b/d/big")
				cpu += cpuTime(b) - before
				get(&them, port, mnt+"/big")
			}
			b.ReportMetric(cpu.Seconds()/float64(len(us))*1024/float64(mib), "cpu-s/GiB")
			b.ReportMetric(median(us), "MiB/s")
			b.ReportMetric(median(them), "openssh-MiB/s")
			b.ReportMetric(median(us)/median(them), "ratio")
		})
	}
}

// cpuTime is what this process, and so our server, has used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	sort.Float64s(v)
	return v[len(v)/2]
}

// get fetches one file to /dev/null and returns how long that took.
func (r *rig) get(port, cipher, path string) time.Duration {
	r.t.Helper()
	user, at := "oadp", *r
	if port != r.port {
		user, at.port = "root", port
	}
	start := time.Now()
	out, errs, status := r.run("get "+path+" /dev/null\n", "sftp",
		append(at.options("-q", "-o", "Ciphers="+cipher, "-b", "-"), user+"@"+r.host)...)
	if status != 0 {
		r.t.Fatalf("get %s from port %s: %s%s", path, port, out, errs)
	}
	return time.Since(start)
}

// opensshServer starts OpenSSH's sshd with the rig's keys and returns its port.
func opensshServer(t testing.TB, r *rig) string {
	t.Helper()
	const program = "/usr/sbin/sshd"
	fixture.Need(t, program)
	dir := t.TempDir()
	newSigner(t, filepath.Join(dir, "host"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	config := strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + dir + "/host", "PidFile none", "AuthorizedKeysFile " + r.key() + ".pub",
		"PermitRootLogin prohibit-password", "StrictModes no", "UsePAM no", "Subsystem sftp /usr/lib/openssh/sftp-server",
	}, "\n")
	write(t, dir, "config", config+"\n")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-f", filepath.Join(dir, "config"), "-E", filepath.Join(dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "known_hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "[127.0.0.1]:%s %s", port, pub); err != nil {
		t.Fatal(err)
	}
	return port
}
