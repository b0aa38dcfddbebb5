package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// jailOf is the starter of a worker's jail: both have one end of a socket pair.
func (c *cell) jailOf(worker int) int {
	c.t.Helper()
	starters := map[int]bool{}
	for _, pid := range descendants(c.agent.cmd.Process.Pid) {
		if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(cmd), "vmfr-jail\x00") {
			starters[pid] = true
		}
	}
	sockets := func(pid int) (inodes []int) {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, l := range links {
			to, _ := os.Readlink(l)
			if n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")); err == nil {
				inodes = append(inodes, n)
			}
		}
		return inodes
	}
	of, other := sockets(worker), c.socketPairs()
	for pid := range starters {
		for _, n := range sockets(pid) {
			if slices.Contains(of, other[n]) {
				return pid
			}
		}
	}
	c.t.Fatalf("none of the starters %v belongs to the worker %d", starters, worker)
	return 0
}

// socketPairs are the inodes of this machine's connected unix sockets, each with that of its other end (sock_diag(7)).
func (c *cell) socketPairs() map[int]int {
	c.t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	const (
		byFamily, showPeer, peer = 20, 4, 2 // SOCK_DIAG_BY_FAMILY, UDIAG_SHOW_PEER, UNIX_DIAG_PEER
		ask, told                = 24, 16   // sizes of struct unix_diag_req and unix_diag_msg
	)
	number := binary.NativeEndian
	request := make([]byte, unix.NLMSG_HDRLEN+ask)
	number.PutUint32(request, uint32(len(request)))
	number.PutUint16(request[4:], byFamily)
	number.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[unix.NLMSG_HDRLEN] = unix.AF_UNIX
	number.PutUint32(request[unix.NLMSG_HDRLEN+4:], 1<<32-1) // sockets of all states
	number.PutUint32(request[unix.NLMSG_HDRLEN+12:], showPeer)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		c.t.Fatal(err)
	}
	pairs := map[int]int{}
	for answer := make([]byte, 1<<16); ; {
		n, err := unix.Read(fd, answer)
		if err != nil {
			c.t.Fatal(err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			c.t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Type != byFamily || len(m.Data) < told {
				if m.Header.Type != unix.NLMSG_DONE {
					c.t.Fatalf("sock_diag answers % x", m.Data)
				}
				return pairs
			}
			for rest := m.Data[told:]; len(rest) >= unix.SizeofRtAttr+4; {
				size, kind := int(number.Uint16(rest)), number.Uint16(rest[2:])
				if kind == peer {
					pairs[int(number.Uint32(m.Data[4:]))] = int(number.Uint32(rest[unix.SizeofRtAttr:]))
				}
				rest = rest[min(len(rest), (max(size, unix.SizeofRtAttr)+3)&^3):]
			}
		}
	}
}

// descendants are all processes that pid started, and that these started.
func descendants(pid int) (all []int) {
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range children {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(s); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}
