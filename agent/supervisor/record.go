package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxRecord bounds one audit line of a worker, in bytes: an archive's has up to 1,000 paths.
	maxRecord = 1 << 20
	// recordRate is how many bytes of audit lines a session may write in a second, after a burst:
	// about 4,000 small files in a second for ever, after the first 130,000 as fast as they are read. A
	// session that has more to say waits, down to its clients.
	recordRate, recordBurst = 2 << 20, 64 << 20
)

// recordsEnd is how long what a worker left in the pipe may take to be read.
const recordsEnd = 5 * time.Second

// records passes the worker's audit lines on until the pipe ends.
func (w *worker) records(from *os.File) {
	x, log := w.sess, w.sess.sup.cfg.Audit
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-w.gone:
			cancel()
			_ = from.SetReadDeadline(time.Now().Add(recordsEnd))
		case <-ctx.Done():
		}
	}()
	line := auditLine{Session: x.id[:12], Namespace: w.doc.Namespace, Name: w.doc.Name}
	r := bufio.NewReaderSize(from, 64<<10) // as much as the pipe holds
	for {
		b, err := readRecord(r)
		if err != nil && !errors.Is(err, errRecord) {
			return
		}
		line.Record, line.Refused = b, ""
		if err != nil {
			line.Record, line.Refused = nil, err.Error()
			log.refused.Add(1)
		}
		_ = x.recordLimit.WaitN(ctx, len(b)+recordCost) // ends early only with the worker
		log.put(line)
	}
}

// recordCost is what every line costs beside its own bytes.
const recordCost = 128

// errRecord tells that a line is no record; the next one may be.
var errRecord = errors.New("no audit record")

// readRecord reads one line and checks that it is what package audit writes: one JSON object of
// printable characters, at most maxRecord bytes.
func readRecord(r *bufio.Reader) (json.RawMessage, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxRecord {
			if err := skipLine(r, part); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("%w: a line of more than %d bytes", errRecord, maxRecord)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err // a line without an end is no line
		}
	}
	line = line[:len(line)-1]
	for i := 0; i < len(line); {
		c, n := utf8.DecodeRune(line[i:])
		if c == utf8.RuneError && n == 1 || !unicode.IsPrint(c) {
			return nil, fmt.Errorf("%w: a line of %d bytes with an unprintable one", errRecord, len(line))
		}
		i += n
	}
	if len(line) == 0 || line[0] != '{' || !json.Valid(line) {
		return nil, fmt.Errorf("%w: a line of %d bytes that is no JSON object", errRecord, len(line))
	}
	return line, nil
}

// skipLine reads the rest of a line that begins with part.
func skipLine(r *bufio.Reader, part []byte) error {
	for part[len(part)-1] != '\n' {
		var err error
		if part, err = r.ReadSlice('\n'); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	return nil
}
