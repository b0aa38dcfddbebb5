package xlog

import (
	"fmt"

	"vmfr/agent/fsys"
)

// noLSN is the LSN of what was never logged.
const noLSN = ^uint64(0)

// location is a buffer: where it begins, and its length, both in basic blocks. Buffers of
// different length at one place are different ones, as the kernel has it.
type location struct {
	daddr  int64
	blocks uint32
}

// replay is one recovery. The log is read twice: first for the buffers that were freed, whose
// earlier contents must not come back, and then to apply the rest.
type replay struct {
	log    *ring
	g      *Geometry
	store  *store
	report Report

	at        int64 // block of the record that is being read
	cancelled map[location]int
	intents   map[intent]bool // not done; whether a reader sees what they do

	// pending are the buffers that transactions of LSN lsn changed and that have not got their
	// own LSN and checksum yet: as long as they have the old LSN, other transactions that begin
	// in the same record are applied, too.
	pending map[location]stamp
	touched []location // the keys of pending, in the order in which they came
	lsn     uint64

	buf, before []byte // one buffer or inode: as it becomes, and as it was when it was loaded
}

const (
	// maxCancelled bounds the buffers that the log cancels; each costs it 60 bytes or more.
	maxCancelled = 1 << 20
	// maxPending bounds the buffers that wait for their checksum; each costs the log 180 bytes
	// or more, and one transaction has at most 64 MiB.
	maxPending = 1 << 19
)

func (p *replay) run(s span) error {
	if _, err := p.pass(s, true, p.collect); err != nil {
		return err
	}
	incomplete, err := p.pass(s, false, p.apply)
	if err != nil {
		return err
	}
	p.report.Incomplete = incomplete
	if err := p.flush(); err != nil {
		return err
	}
	return p.pendingIntents()
}

// pass hands each complete transaction to commit, in the order of their ends, and tells how many
// were not complete. formats: items are wanted without their data.
func (p *replay) pass(s span, formats bool, commit func(*transaction) error) (incomplete int, err error) {
	a := &assembler{log: p.log, open: map[uint32]*transaction{}, commit: commit, formats: formats}
	p.report.Records = 0
	_, err = p.log.walk(s.head, s.tail, func(r *record) error {
		valid, present := p.log.checksumValid(r)
		if p.g.V5 && !valid {
			if !present {
				return p.log.corrupt("log record", r.blk, "no checksum")
			}
			return p.log.corrupt("log record", r.blk, "wrong checksum")
		}
		if err := p.log.unpack(r); err != nil {
			return err
		}
		if err := p.log.checkOwner(r); err != nil {
			return err
		}
		p.report.Records++
		p.at = r.blk
		return a.record(r)
	})
	return len(a.open), err
}

// collect is the first pass: it counts how often each buffer is cancelled.
func (p *replay) collect(t *transaction) error {
	items, err := order(t.items)
	if err != nil {
		return err
	}
	for _, it := range items {
		if it.kind() != itemBuffer {
			continue
		}
		f, err := parseBuffer(it)
		if err != nil {
			return err
		}
		if f.flags&bufferCancel == 0 {
			continue
		}
		if len(p.cancelled) >= maxCancelled {
			return fmt.Errorf("xfs: %w: more than %d cancelled buffers in the log", fsys.ErrUnsupported, maxCancelled)
		}
		p.cancelled[f.location]++
	}
	return nil
}

// apply is the second pass.
func (p *replay) apply(t *transaction) error {
	if t.lsn != p.lsn {
		if err := p.flush(); err != nil {
			return err
		}
		p.lsn = t.lsn
	}
	p.report.Transactions++
	items, err := order(t.items)
	if err != nil {
		return err
	}
	t.items = nil // what is applied may go while the rest is: a transaction can be large
	for i, it := range items {
		items[i] = nil
		switch it.kind() {
		case itemBuffer:
			err = p.buffer(it)
		case itemInode:
			err = p.inode(it)
		case itemICreate:
			err = p.icreate(it)
		case itemDquot, itemQuotaOff: // quota accounting is not read
		default:
			err = p.trackIntent(it)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads n bytes of the volume as it is now. The bytes are valid until the next call, and may
// be changed for save.
func (p *replay) load(off int64, n int) ([]byte, error) {
	if cap(p.buf) < n {
		p.buf, p.before = make([]byte, max(n, maxBufferBytes)), make([]byte, max(n, maxBufferBytes))
	}
	b := p.buf[:n]
	if err := p.store.read(b, off); err != nil {
		return nil, err
	}
	copy(p.before, b)
	return b, nil
}

// save writes what the last load gave.
func (p *replay) save(b []byte, off int64) error { return p.store.write(b, p.before[:len(b)], off) }

// bytes converts a place on the device, and requires it to lie there.
func (p *replay) bytes(at location, what string) (off int64, n int, err error) {
	size := p.store.base.Size() / basicBlock
	if at.blocks == 0 || at.blocks > maxBufferBytes/basicBlock || at.daddr < 0 || at.daddr > size-int64(at.blocks) {
		return 0, 0, p.log.corrupt(what, p.at, "%d sectors at sector %d of a device of %d", at.blocks, at.daddr, size)
	}
	return at.daddr * basicBlock, int(at.blocks) * basicBlock, nil
}
