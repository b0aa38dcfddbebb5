package xlog

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
)

// A record's data is a sequence of operations, each a header and a region of bytes. Headers are
// big-endian:
//
//	0 transaction  4 length of the region  8 client  9 flags  10 reserved
const (
	opHeaderSize = 12

	opStart        = 0x01 // a transaction begins
	opCommit       = 0x02 // it is complete
	opContinue     = 0x04 // the region goes on in the next record
	opWasContinued = 0x08 // this is the rest of a region
	opEnd          = 0x10 // and it ends here
	opUnmount      = 0x20

	clientTransaction = 0x69
	clientLog         = 0xaa

	transMagic      = 0x5452414e
	transHeaderSize = 16

	// maxRegions is how many regions one item can have: every second chunk of the largest buffer,
	// and the item's format.
	maxRegions = 64<<10/chunkSize/2 + 1

	// maxOpen bounds in bytes what of uncommitted transactions is held in memory. A checkpoint of
	// the guest's may have 64 MiB, where the log has 512 MiB or more, and less otherwise.
	maxOpen = 96 << 20
	// regionCost is what a region costs beside its bytes, so that many small ones count.
	regionCost = 64
)

// item is one logged object: a format that describes it, and its data.
type item struct {
	regions [][]byte // regions[0] is the format
	total   int      // how many there must be; 0: not known yet
}

func (it *item) kind() uint16 { return binary.LittleEndian.Uint16(it.regions[0]) }

// transaction is a checkpoint that is being reassembled.
type transaction struct {
	lsn    uint64 // of the record where it began
	header int    // bytes of its header that were seen
	items  []*item
	cost   int
}

// assembler puts transactions together from the operations of the records. Transactions of
// several checkpoints can be interleaved.
type assembler struct {
	log    *ring
	open   map[uint32]*transaction // by the transaction's number in the log
	cost   int                     // of all that are open, in bytes
	commit func(*transaction) error
	// formats: of each item only the first region is kept.
	formats bool
}

// record takes the operations of one unpacked record.
func (a *assembler) record(r *record) error {
	data := r.data[:r.length]
	for n := r.u32(recNumOps); n > 0 && len(data) > 0; n-- {
		if len(data) < opHeaderSize {
			return a.log.corrupt("log record", r.blk, "%d bytes for the header of an operation", len(data))
		}
		be := binary.BigEndian
		tid, size, client, flags := be.Uint32(data), be.Uint32(data[4:]), data[8], data[9]
		data = data[opHeaderSize:]
		if client != clientTransaction && client != clientLog {
			return a.log.corrupt("log record", r.blk, "an operation of client %#x", client)
		}
		if uint64(size) > uint64(len(data)) {
			return a.log.corrupt("log record", r.blk, "an operation of %d bytes, %d are left", size, len(data))
		}
		if err := a.operation(r, tid, flags, data[:size]); err != nil {
			return err
		}
		data = data[size:]
	}
	return nil
}

func (a *assembler) operation(r *record, tid uint32, flags byte, region []byte) error {
	t := a.open[tid]
	if t == nil {
		// The end of a transaction that began before the tail needs no replay.
		if flags&opStart != 0 {
			if a.cost += regionCost; a.cost > maxOpen {
				return a.tooMuch()
			}
			a.open[tid] = &transaction{lsn: r.lsn(), cost: regionCost}
		}
		return nil
	}
	flags &^= opEnd
	if flags&opWasContinued != 0 {
		flags &^= opContinue
	}
	var err error
	switch flags {
	case 0, opContinue:
		err = a.add(t, r, region)
	case opWasContinued:
		err = a.extend(t, r, region)
	case opCommit:
		a.drop(tid)
		if err = t.complete(a.log, r); err == nil {
			err = a.commit(t)
		}
	case opUnmount:
		a.drop(tid)
	default:
		err = a.log.corrupt("log record", r.blk, "an operation with flags %#x", flags)
	}
	return err
}

func (a *assembler) drop(tid uint32) {
	a.cost -= a.open[tid].cost
	delete(a.open, tid)
}

// spend accounts for n bytes more of a transaction.
func (a *assembler) spend(t *transaction, n int) error {
	t.cost += n
	if a.cost += n; a.cost > maxOpen {
		return a.tooMuch()
	}
	return nil
}

func (a *assembler) tooMuch() error {
	return fmt.Errorf("xfs: %w: more than %d bytes of unfinished transactions in the log", fsys.ErrUnsupported, maxOpen)
}

// add takes a region that begins here: the transaction's header, or the next one of an item.
func (a *assembler) add(t *transaction, r *record, region []byte) error {
	if len(region) == 0 {
		return nil
	}
	if t.header < transHeaderSize {
		if len(region) < 4 || len(region) > transHeaderSize || binary.LittleEndian.Uint32(region) != transMagic {
			return a.log.corrupt("log record", r.blk, "a transaction without a header")
		}
		t.header = len(region)
		return nil
	}
	it := t.last()
	if it == nil || len(it.regions) == it.total {
		if len(region) < 4 {
			return a.log.corrupt("log record", r.blk, "a log item of %d bytes", len(region))
		}
		it = &item{total: int(binary.LittleEndian.Uint16(region[2:]))}
		if it.total == 0 || it.total > maxRegions {
			return a.log.corrupt("log record", r.blk, "a log item of %d regions", it.total)
		}
		t.items = append(t.items, it)
	}
	if a.formats && len(it.regions) > 0 {
		region = nil
	}
	it.regions = append(it.regions, append([]byte(nil), region...))
	return a.spend(t, len(region)+regionCost)
}

// extend takes the rest of a region that a former record had the beginning of.
func (a *assembler) extend(t *transaction, r *record, region []byte) error {
	it := t.last()
	switch {
	case it == nil && t.header < transHeaderSize:
		if len(region) > transHeaderSize {
			return a.log.corrupt("log record", r.blk, "a transaction without a header")
		}
		t.header = transHeaderSize
		return nil
	case it == nil:
		return a.log.corrupt("log record", r.blk, "the rest of a region that does not exist")
	}
	if a.formats && len(it.regions) > 1 {
		return nil
	}
	last := &it.regions[len(it.regions)-1]
	*last = append(*last, region...)
	return a.spend(t, len(region))
}

func (t *transaction) last() *item {
	if len(t.items) == 0 {
		return nil
	}
	return t.items[len(t.items)-1]
}

// complete requires that all regions of all items are there.
func (t *transaction) complete(l *ring, r *record) error {
	if it := t.last(); it != nil && len(it.regions) != it.total {
		return l.corrupt("log record", r.blk, "a transaction is committed with %d of %d regions of a log item", len(it.regions), it.total)
	}
	return nil
}
