package xfs

import (
	"fmt"
	"math"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/xfs/xlog"
)

// replayLog returns the device as it is after the log's replay, which is the device itself where
// the log is clean, and what Info tells about it.
func replayLog(r extent.Reader, sb *super, o Options) (dev extent.Reader, state string, dirty bool, err error) {
	if o.NoReplay {
		return r, "not replayed", false, nil
	}
	if sb.logStart == 0 {
		return nil, "", false, fmt.Errorf("xfs: %w: the log is on another device", fsys.ErrUnsupported)
	}
	if sb.logBlocks > math.MaxUint32 {
		return nil, "", false, fmt.Errorf("xfs: %w: a log of %d blocks", fsys.ErrUnsupported, sb.logBlocks)
	}
	dev, report, err := xlog.Replay(r, sb.logGeometry())
	if err != nil {
		return nil, "", false, err
	}
	return dev, report.String(), report.Dirty, nil
}

// logGeometry is what the log's replay needs to know; parseSuper checked the ranges.
func (s *super) logGeometry() xlog.Geometry {
	return xlog.Geometry{
		BlockSize:  uint32(s.blockSize),
		InodeSize:  uint32(s.inodeSize),
		AGBlocks:   uint32(s.agBlocks),
		AGCount:    uint32(s.agCount),
		AGBlockLog: uint8(s.agBlockLog),
		InoPerLog:  uint8(s.inopbLog),
		InodeAlign: uint32(s.inodeAlign),
		LSN:        s.lsn,

		LogStart:  s.logStart,
		LogBlocks: uint32(s.logBlocks),
		LogSunit:  uint32(s.logUnit),

		V5:          s.v5,
		LogV2:       s.logV2,
		Nrext64:     s.has(incompatNrext64),
		LogIncompat: s.logIncompat,

		UUID:     s.uuid,
		MetaUUID: s.metaUUID,
	}
}
