package worker

import (
	"os"
	"runtime/debug"
	"syscall"
)

const (
	// memoryBase is what the runtime may use with one disk: the program, its caches (16 MiB of
	// inflated clusters, 4 MiB of image tables, 8 MiB of file system metadata) and the buffers
	// of transfers. The 80 MB that a worker may have also hold the program's own pages.
	memoryBase = 52 << 20
	// memoryDisk is added for each further disk: its tables and metadata.
	memoryDisk = 14 << 20
	// gcPercent trades some processor time for memory: caches make up most of the heap and
	// live long, so doubling it between collections would only hold garbage.
	gcPercent = 50
)

// LimitMemory tunes the garbage collector for a process that serves n disks. GOMEMLIMIT and
// GOGC, where set, win. It is for the program's start: the settings are the process's.
func LimitMemory(n int) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryBase + int64(max(n-1, 0))*memoryDisk)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// GrowMemory adds to the limit that LimitMemory set, in bytes.
func GrowMemory(n int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(debug.SetMemoryLimit(-1) + n)
	}
}

// blocks is st_blocks, in units of 512 bytes.
func blocks(st os.FileInfo) int64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Blocks
	}
	return 0
}
