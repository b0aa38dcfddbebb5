package web

import (
	"net/url"
	"strings"
)

// encode percent-encodes all bytes but RFC 3986's unreserved ones: the result is the same in a
// path, in a query and in a shell.
func encode(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// encodePath percent-encodes each name of a path of the tree by itself.
func encodePath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = encode(p)
	}
	return strings.Join(parts, "/")
}

// browseURL, fileURL, compareURL and versionsURL are addresses for a path of the tree.
func browseURL(path string) string { return strings.TrimSuffix(browsePrefix, "/") + encodePath(path) }

func fileURL(path string) string { return "/files" + encodePath(path) }

func compareURL(from, to string) string {
	return "/compare?from=" + encodePath(from) + "&to=" + encodePath(to)
}

func versionsURL(path string) string { return "/versions?path=" + encodePath(path) }

// treePath decodes the escaped path of a page's address. What the API refuses in paths it will
// refuse here, too: nothing is cleaned but empty names.
func treePath(escaped string) (string, error) {
	var b strings.Builder
	for _, part := range strings.Split(escaped, "/") {
		if part == "" {
			continue
		}
		n, err := url.PathUnescape(part)
		if err != nil {
			return "", err
		}
		b.WriteByte('/')
		b.WriteString(n)
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}

// join adds a name to a path of the tree.
func join(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }

// parent is the path above, "" above the root; base is the last name.
func parent(path string) string {
	if path == "/" {
		return ""
	}
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// split divides a path in a backup into the backup and the rest, which begins with the disk;
// false: it lies in none.
func split(path string) (backup, rest string, ok bool) {
	p, ok := strings.CutPrefix(path, "/backups/")
	if !ok || p == "" {
		return "", "", false
	}
	backup, rest, _ = strings.Cut(p, "/")
	return backup, rest, true
}

// crumbs are the way from the root to path.
func (s *Site) crumbs(path string) []crumb {
	out := []crumb{{browsePrefix, s.texts.get("folder.root")}}
	if path == "/" {
		return out
	}
	at := ""
	for _, n := range strings.Split(path[1:], "/") {
		at += "/" + n
		out = append(out, crumb{browseURL(at), n})
	}
	return out
}
