package files

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vmfr/test/fixture"
)

const benchSize = 512 << 20

// BenchmarkDownload pairs us with nginx and with Go's own file server, which serve the same
// file from the kernel's mount of the same image, by the same curl with the same cipher suite.
func BenchmarkDownload(b *testing.B) {
	src := b.TempDir()
	if err := os.WriteFile(filepath.Join(src, "big"), random(benchSize), 0o644); err != nil {
		b.Fatal(err)
	}
	img := fixture.Ext4(b, src, benchSize+benchSize/4)
	mnt := fixture.Mount(b, img, "ext4", "ro,noload", 0, 0)
	fixture.Need(b, "curl")
	s := start(b, openTree(b, map[string]string{"root": img}), nil)
	key, cert := filepath.Join(b.TempDir(), "key"), filepath.Join(b.TempDir(), "cert")
	_, pair, err := SelfSigned([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	for path, data := range map[string][]byte{key: pair.Key, cert: pair.Cert} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	peers := []struct{ name, url string }{
		{"us", s.url("/files" + disk + "/big")},
		{"go", startGo(b, mnt, cert, key) + "/big"},
	}
	if _, err := exec.LookPath("nginx"); err == nil {
		peers = append(peers, struct{ name, url string }{"nginx", startNginx(b, mnt, cert, key) + "/big"})
	}
	for _, proto := range []string{"--http1.1"} { // which a client that knows both is given
		for _, p := range peers {
			b.Run(strings.TrimPrefix(proto, "--")+"/"+p.name, func(b *testing.B) {
				b.SetBytes(benchSize)
				before := cpu(p.name)
				for range b.N {
					s.mustCurl("-k", "--fail", proto, "--tls13-ciphers", "TLS_AES_128_GCM_SHA256", "-o", "/dev/null", p.url)
				}
				// On a shared machine the server's own time says more than the clock.
				b.ReportMetric((cpu(p.name)-before).Seconds()*1e3*(1<<30)/benchSize/float64(b.N), "cpu-ms/GiB")
			})
		}
	}
}

// nginxPID is the peer's only process.
var nginxPID int

// cpu is the time that the server has used: for us and Go that of this process, which does
// nothing else meanwhile; nginx is a child that has not ended, see /proc.
func cpu(name string) time.Duration {
	if name != "nginx" {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", nginxPID))
	fields := strings.Fields(string(stat))
	if len(fields) < 15 {
		return 0
	}
	ticks := 0
	for _, f := range fields[13:15] { // utime, stime of proc(5)
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

func startGo(b *testing.B, dir, cert, key string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir)), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	go func() { _ = srv.ServeTLS(l, cert, key) }()
	b.Cleanup(func() { _ = srv.Close() })
	return "https://" + l.Addr().String()
}

func startNginx(b *testing.B, dir, cert, key string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close() // nginx takes no listener; nobody else wants this port
	conf := filepath.Join(b.TempDir(), "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error; user root;
events {}
http { access_log off; sendfile on; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
server { listen %[2]s ssl http2; ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.2 TLSv1.3; root %[5]s; } }
`, b.TempDir(), addr, cert, key, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	nginxPID = cmd.Process.Pid
	b.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "https://" + addr
}
