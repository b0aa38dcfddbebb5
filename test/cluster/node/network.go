package node

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// clientNetwork is the client's network namespace as the node's processes see it.
const clientNetwork = "/proc/1/fd/100" // clientNetFD

// connect joins the node's network namespace with the client's. Each has routes to the other and
// to nothing else, so that what looks for the Internet is refused at once. Traffic to Pods is routed,
// never bridged (CNI's ptp), since an answer that takes a bridge would miss the translation of a
// Service's address.
func connect() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	err := batch(exec.Command("ip", "-batch", "-"),
		"link set lo up",
		"link add node0 type veth peer name eth0 netns "+clientNetwork,
		"address add "+Address+"/24 dev node0",
		"link set node0 up",
		"route add unreachable default")
	if err != nil {
		return err
	}
	return batch(exec.Command("nsenter", "--net="+clientNetwork, "ip", "-batch", "-"),
		"link set lo up",
		"address add "+ClientAddress+"/24 dev eth0",
		"link set eth0 up",
		"route add "+PodCIDR+" via "+Address,
		"route add "+ServiceCIDR+" via "+Address,
		"route add unreachable default")
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
