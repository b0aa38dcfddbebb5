package csi

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// endpointEnv names the driver's socket for TestSuite, which TestServe runs: ginkgo refuses to run
// in a process whose tests are repeated.
const endpointEnv = "VMFR_TEST_CSI_ENDPOINT"

// TestServe serves a driver as the kubelet finds it, and lets csi-sanity speak to it, the
// conformance suite of the CSI project.
func TestServe(t *testing.T) {
	x := newTester(t, "", asFilesystem)
	short, err := os.MkdirTemp("", "csi") // a socket's path is shorter than 108 bytes
	x.ok(err)
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	s := Sockets{Endpoint: filepath.Join(short, "csi.sock"), Registration: filepath.Join(short, "reg.sock")}
	x.ok(os.WriteFile(s.Endpoint, nil, 0o600)) // of a driver that was killed
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- x.Serve(ctx, s) }()
	for { // until it can be reached
		if c, err := net.Dial("unix", s.Registration); err == nil {
			x.ok(c.Close())
			break
		}
		select {
		case err := <-served:
			t.Fatal(err)
		default:
		}
	}

	c := connect(t, s.Registration)
	info := must[*registration.PluginInfo](t)(registration.NewRegistrationClient(c).GetInfo(ctx, &registration.InfoRequest{}))
	if info.Type != registration.CSIPlugin || info.Name != Name || info.Endpoint != s.Endpoint {
		t.Errorf("the kubelet is told %v", info)
	}
	x.ok(c.Close())

	suite := exec.Command(os.Args[0], "-test.run=^TestSuite$", "-test.v")
	suite.Env = append(os.Environ(), endpointEnv+"="+s.Endpoint)
	if out, err := suite.CombinedOutput(); err != nil {
		t.Errorf("csi-sanity: %v\n%s", err, out)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestSuite is csi-sanity, for file systems and for block devices.
func TestSuite(t *testing.T) {
	endpoint := os.Getenv(endpointEnv)
	if endpoint == "" {
		t.Skip("TestServe runs it")
	}
	for _, access := range []string{"mount", "block"} {
		config := sanity.NewTestConfig()
		config.TestVolumeSize, config.TestVolumeAccessType = testSize, access
		config.TargetPath, config.StagingPath = filepath.Join(t.TempDir(), "targets"), filepath.Join(t.TempDir(), "staging")
		// The suite's own connecting waits for a change that may have been before; with a connection
		// for its address, which is empty, it does not.
		suite := sanity.GinkgoTest(&config)
		suite.Conn = connect(t, endpoint)
		suite.ControllerConn = suite.Conn
		defer suite.Finalize()
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct, reporter.NoColor = true, true
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		t.Fail()
	}
}

func connect(t testing.TB, path string) *grpc.ClientConn {
	return must[*grpc.ClientConn](t)(grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost")))
}
