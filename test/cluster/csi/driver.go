package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Name is the driver's name: the provisioner of a StorageClass, the driver of a VolumeSnapshotClass.
const Name = "loop.vmfr.test"

// Config says where volumes are.
type Config struct {
	Node  string       // the name of this node
	State string       // directory of the volumes and snapshots, the same on all nodes; created
	Log   *slog.Logger // nil: nothing is logged
}

// Driver answers CSI's calls for one state directory. Of its drivers one may answer the controller's
// calls, and on each node one the node's.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	registration.UnsafeRegistrationServer

	node               string
	volumes, snapshots shelf
	log                *slog.Logger
	busy               locks
	endpoint           string // of Sockets
}

// New returns a driver of the state directory.
func New(c Config) (*Driver, error) {
	if c.Node == "" || len(c.Node) > nodeLimit || c.State == "" {
		return nil, fmt.Errorf("csi: a driver needs the name of its node, of at most %d bytes, and a state directory", nodeLimit)
	}
	d := &Driver{node: c.Node, log: c.Log, busy: locks{held: map[string]*lock{}},
		volumes: shelf(filepath.Join(c.State, "volumes")), snapshots: shelf(filepath.Join(c.State, "snapshots"))}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []shelf{d.volumes, d.snapshots} {
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Sockets are the unix sockets at which a driver is served. Their paths must be shorter than 108
// bytes.
type Sockets struct {
	Endpoint     string // CSI's services; the kubelet finds it at the same path
	Registration string // of the kubelet's plugin watcher: <root>/plugins_registry/<any>.sock; "": not registered
}

// Serve answers calls until the context ends, and then ends those that have begun.
func (d *Driver) Serve(ctx context.Context, s Sockets) error {
	d.endpoint = s.Endpoint
	server := grpc.NewServer(grpc.UnaryInterceptor(d.observe))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	paths := []string{s.Endpoint}
	if s.Registration != "" { // after the endpoint, which the kubelet asks as soon as it sees this one
		registration.RegisterRegistrationServer(server, d)
		paths = append(paths, s.Registration)
	}
	ended := make(chan error, len(paths))
	for _, path := range paths {
		l, err := listen(path)
		if err != nil {
			server.Stop()
			return err
		}
		go func() { ended <- server.Serve(l) }()
	}
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	var err error
	for range paths {
		err = errors.Join(err, <-ended)
	}
	return err
}

// listen makes a socket where a killed driver may have left one.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// observe logs a call, and gives an error without a code of gRPC's one.
func (d *Driver) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, req)
	err = coded(err)
	level := slog.LevelDebug
	if err != nil {
		level = slog.LevelError
	}
	d.log.Log(ctx, level, "call", "method", info.FullMethod, "request", fmt.Sprint(req), "error", err)
	return answer, err
}

// coded returns err as one of gRPC's: codes.Internal unless it has a code.
func coded(err error) error {
	switch _, has := status.FromError(err); {
	case has:
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// GetInfo tells the kubelet's plugin watcher what is behind the registration's socket.
func (d *Driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: Name, Endpoint: d.endpoint, SupportedVersions: []string{"1.11.0"}}, nil
}

// NotifyRegistrationStatus is what the kubelet says to it.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, r *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if r.PluginRegistered {
		d.log.Info("the kubelet knows the driver")
	} else {
		d.log.Error("the kubelet refused the driver", "error", r.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// GetPluginInfo is of CSI's identity service.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: "1"}, nil
}

// GetPluginCapabilities says that there is a controller service.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}}}}, nil
}

// Probe says that the driver is ready, as it is since New returned.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// locks let one call at a time work on a volume or snapshot.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	wanted int // by how many, its holder among them
}

// lock waits for the ID's lock and returns what releases it.
func (l *locks) lock(id string) (unlock func()) {
	l.mu.Lock()
	one := l.held[id]
	if one == nil {
		one = &lock{}
		l.held[id] = one
	}
	one.wanted++
	l.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.wanted--; one.wanted == 0 {
			delete(l.held, id)
		}
	}
}
