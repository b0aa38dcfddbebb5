package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfr/agent/image"
	"vmfr/agent/session"
	"vmfr/agent/worker"
)

// listen answers the worker until its connection ends. Its words are a stranger's: it reads what
// guests wrote.
func (l *life) listen() error {
	for {
		m, err := l.w.Conn.Receive(0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return l.died(err)
		}
		m.Close()
		switch {
		case m.Sealed != nil && !l.sealed:
			l.sealed = true
			l.log.open()
			l.sandbox = readySandbox{On: true}
			for _, layer := range m.Sealed.Weaker {
				l.sandbox.Missing = append(l.sandbox.Missing, printable(layer))
			}
			l.bare.Do(func() {
				for _, layer := range l.sandbox.Missing {
					l.serving.log.Warn("a layer of the worker's sandbox is missing", "layer", layer)
				}
			})
		case m.Beside != nil && l.sealed:
			err = l.answer(l.beside(*m.Beside))
		case m.Appliance != nil && l.sealed:
			err = l.lend(m.Appliance)
		case m.Opened != nil:
			l.opened = true
		case m.Ready != nil && l.sealed:
			err = l.ready(m.Ready)
		case m.Records != nil && l.records != nil:
			_, werr := l.records.Write(m.Records.Lines)
			err = l.answer(nil, werr)
		case m.Ended != nil:
			l.ended = m.Ended
		default:
			err = errors.New("the worker sent what it should not")
		}
		if err != nil {
			return err
		}
	}
}

// answer sends the file, or why there is none, and closes it.
func (l *life) answer(f *os.File, err error) error {
	a := &session.Answer{File: f != nil}
	m := &session.Message{Answer: a}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		a.Errno = uint(errno)
	case err != nil:
		a.Error = strings.ToValidUTF8(err.Error(), "?")
		a.Error = a.Error[:min(len(a.Error), session.MaxText)]
	case f != nil:
		defer f.Close()
		m.Files = []*os.File{f}
	}
	if err := l.w.Conn.Send(m, tellLimit); err != nil {
		return l.died(err)
	}
	return nil
}

// beside opens the file that an image names as its backing file: one of the image's own folder, out
// of which os.Root follows no link, and only where the user said that the image is qcow2.
func (b *sandboxed) beside(q session.Beside) (*os.File, error) {
	var disk *worker.Disk
	at := 0
	for i := range b.disks.backups {
		disks := b.disks.backups[i].Disks
		if q.Image >= at && q.Image < at+len(disks) {
			disk = &disks[q.Image-at]
		}
		at += len(disks)
	}
	if disk == nil || disk.Dir == nil {
		return nil, errors.New("no file may be looked up beside this image")
	}
	if !b.asked[q] {
		n := 0
		for k := range b.asked {
			if k.Image == q.Image {
				n++
			}
		}
		if b.opened || n >= image.MaxChain {
			return nil, errors.New("all images were open before; a further file is refused")
		}
		b.asked[q] = true
	}
	f, err := disk.Dir.OpenFile(q.Name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if pe := (*os.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, err
	}
	if err := checkImageFile(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	b.serving.log.Debug("a backing file was opened", "path", filepath.Join(filepath.Dir(disk.Source), q.Name))
	return f, nil
}

// ready tells the user, when the first worker is.
func (l *life) ready(r *session.Ready) error {
	if l.mount != nil {
		if err := l.mount.Settle(); err != nil {
			return err
		}
	}
	if l.served {
		l.serving.log.Info("the images are served again")
		return nil
	}
	l.served = true
	var text strings.Builder
	for line := range strings.Lines(r.Summary) {
		text.WriteString(printable(strings.TrimSuffix(line, "\n")) + "\n")
	}
	if !strings.HasPrefix(r.Example, "/") || !plainWord(r.Example) {
		r.Example = "/README.txt"
	}
	return l.tell(text.String(), r.Example)
}
