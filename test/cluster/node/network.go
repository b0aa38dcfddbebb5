package node

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peerNetwork is, as a node's processes see it, the network namespace that the node is joined with:
// of the first node the client's, of the others the first node's.
const peerNetwork = "/proc/1/fd/100" // peerNetFD

// connect joins the node's network namespace with its peer's. Each has routes to all of the
// cluster and to nothing else, so that what looks for the Internet is refused at once. Traffic to
// Pods is routed, never bridged (CNI's ptp), since an answer that takes a bridge would miss the
// translation of a Service's address.
func (p place) connect() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	here, peer := p.toClient()
	if !p.first() {
		here, peer = p.toFirst()
	}
	if err := batch(exec.Command("ip", "-batch", "-"), append([]string{"link set lo up"}, here...)...); err != nil {
		return err
	}
	return batch(exec.Command("nsenter", "--net="+peerNetwork, "ip", "-batch", "-"), peer...)
}

// toClient are ip's commands on the first node and in the client's network. The client reaches all
// nodes by the first one.
func (p place) toClient() (here, peer []string) {
	return []string{
			"link add client type veth peer name eth0 netns " + peerNetwork,
			"address add " + p.Address() + "/24 dev client",
			"link set client up",
			"route add unreachable default",
		}, []string{
			"link set lo up",
			"address add " + ClientAddress + "/24 dev eth0",
			"link set eth0 up",
			"route add " + nodeCIDR + " via " + p.Address(),
			"route add " + PodCIDR + " via " + p.Address(),
			"route add " + ServiceCIDR + " via " + p.Address(),
			"route add unreachable default",
		}
}

// toFirst are ip's commands on another node and on the first one, by which that reaches all others.
// When the node ends the kernel removes the link, and with it the first node's routes.
func (p place) toFirst() (here, peer []string) {
	first := p.control().Address()
	return []string{
			"link add eth0 type veth peer name " + p.Name() + " netns " + peerNetwork,
			"address add " + p.Address() + " peer " + first + " dev eth0",
			"link set eth0 up",
			"route add " + nodeCIDR + " via " + first,
			"route add " + PodCIDR + " via " + first,
			"route add unreachable " + p.podCIDR(), // but for the Pods that there are
			"route add unreachable default",
		}, []string{
			"address add " + first + " peer " + p.Address() + " dev " + p.Name(),
			"link set " + p.Name() + " up",
			"route add " + p.podCIDR() + " via " + p.Address(),
		}
}

func batch(cmd *exec.Cmd, lines ...string) error {
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// proxyMode is how kube-proxy can translate Services' addresses here. iptables needs matches that a
// kernel may not have.
func proxyMode() string {
	if probe("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "probe", "-m", "statistic",
		"--mode", "random", "--probability", "0.5", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE", "--random-fully") == nil &&
		probe("iptables", "-w", "-t", "nat", "-F", "POSTROUTING") == nil {
		return "iptables"
	}
	return "nftables"
}

func probe(name string, args ...string) error { return exec.Command(name, args...).Run() }

// cniPlugins is where Debian has CNI's plugins.
const cniPlugins = "/usr/lib/cni"

// configDir is where a node's directory has the configuration of its programs.
func configDir(dir string) string { return filepath.Join(dir, "config") }
