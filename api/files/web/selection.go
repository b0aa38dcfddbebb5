package web

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// selected are the paths that a folder's form sends: "dir" is the folder and each "n" a name in
// it, percent-encoded once more, because a form loses bytes that are not UTF-8 and changes line ends.
// Without a name it is the folder itself.
func (s *Site) selected(v *visit) (paths []string, err error) {
	q := v.r.URL.Query()
	bad := &problem{Status: http.StatusBadRequest, Title: http.StatusText(http.StatusBadRequest), Detail: s.texts.get("error.address")}
	dir, err := treePath(q.Get("dir"))
	if err != nil {
		return nil, bad
	}
	for _, n := range q["n"] {
		name, err := url.PathUnescape(n)
		if err != nil || name == "" || strings.Contains(name, "/") {
			return nil, bad
		}
		paths = append(paths, join(dir, name))
	}
	if len(paths) == 0 {
		paths = []string{dir}
	}
	return paths, nil
}

// download sends what is selected as an archive: the API's own answer.
func (s *Site) download(v *visit) error {
	paths, err := s.selected(v)
	if err != nil {
		return err
	}
	q := url.Values{"path": paths, "format": {v.r.URL.Query().Get("format")}}
	r, err := s.request(v.ctx, "/api/v1/archive", q)
	if err != nil {
		return err
	}
	r.Method, r.RemoteAddr = v.r.Method, v.r.RemoteAddr
	s.cfg.API(v.w, v.w, r)
	return nil
}

// command is one way to fetch what is selected.
type command struct{ Tool, Line, Note string }

func (s *Site) commands(v *visit) error {
	paths, err := s.selected(v)
	if err != nil {
		return err
	}
	data := struct {
		Paths    []string
		Commands []command
		Download string
	}{Paths: paths, Commands: s.commandsFor(v.r.Host, paths), Download: "/download?" + v.r.URL.RawQuery}
	dir := parent(paths[0])
	if dir == "" {
		dir = "/"
	}
	return s.show(v, http.StatusOK, "commands", view{Title: s.texts.get("commands.title"), Crumbs: s.crumbs(dir), Up: browseURL(dir), Path: encodePath(dir), Data: data})
}

// commandsFor writes the commands for a POSIX shell, with $'...' where names need it.
func (s *Site) commandsFor(host string, paths []string) []command {
	name, port := host, ""
	if n, p, err := net.SplitHostPort(host); err == nil {
		name, port = n, p
	}
	ssh := strings.Trim(name, "[]")
	if strings.Contains(ssh, ":") {
		ssh = "[" + ssh + "]"
	}
	var out []command
	if s.cfg.SSHPort > 0 {
		p := strconv.Itoa(s.cfg.SSHPort)
		rsync := []string{"rsync", "-aHAXS", "--numeric-ids", "--secluded-args", "-e", "ssh -p " + p}
		scp := []string{"scp", "-r", "-p", "-P", p}
		for i, path := range paths {
			from := s.cfg.User + "@" + ssh + ":"
			scp = append(scp, from+scpPath(path))
			if i > 0 {
				from = ":" // the same host once more
			}
			rsync = append(rsync, from+rsyncPath(path))
		}
		out = append(out, command{"rsync", shellLine(append(rsync, "./")), s.texts.get("commands.rsync")},
			command{"scp", shellLine(append(scp, "./")), s.texts.get("commands.scp")})
	}
	curl := []string{"curl", "--fail", "--cacert", "ca.pem", "-u", s.cfg.User}
	at := "https://" + name
	if port != "" {
		at = "https://" + net.JoinHostPort(strings.Trim(name, "[]"), port)
	}
	q := make([]string, len(paths))
	for i, path := range paths {
		q[i] = "path=" + encode(path)
	}
	curl = append(curl, "-o", "backup.zip", at+"/api/v1/archive?format=zip&"+strings.Join(q, "&"))
	return append(out, command{"curl", shellLine(curl), s.texts.get("commands.curl")})
}
