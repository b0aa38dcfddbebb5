package worker

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"vmfr/agent/jail"
	"vmfr/fusefs"
	"vmfr/sshd"
)

// serveJail serves the tree to a jail's mount until the jail is closed, and returns what runs
// rsync there; nil where that is not possible.
func (s *session) serveJail(ctx context.Context, g *errgroup.Group, j *jail.Jail) sshd.Runner {
	if j == nil {
		return nil
	}
	server, err := fusefs.Serve(j.Device(), s.disks.Tree, fusefs.Options{AllowOther: true, Counters: s.count(frontRsync), Log: s.log})
	if err != nil {
		s.log.Error("rsync is not offered", "err", err)
		_ = j.Close()
		return nil
	}
	s.jailed = server
	g.Go(func() error {
		select {
		case <-j.Done():
			if ctx.Err() == nil {
				s.log.Error("the jail's starter has ended; rsync is refused until the next start")
			}
		case <-ctx.Done():
			<-j.Done() // closed when the SSH server has ended
		}
		until, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
		defer cancel()
		if server.Wait(until) != nil {
			s.stuck.Store(true)
			return errors.New("the jail's mount is gone, but requests are still being answered")
		}
		return nil
	})
	return j
}
