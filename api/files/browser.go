package files

import (
	"net/http"
	"strings"

	"vmfr/api/files/web"
)

// newSite makes the file browser, whose pages ask this handler for all that they show.
func (h *handler) newSite() (*web.Site, error) {
	return web.New(web.Config{API: h.answerPage, User: h.cfg.User, SSHPort: h.cfg.SSHPort})
}

// answerPage answers a page's question as the person behind outer, who is logged in: it is of their
// session in the audit log, and its progress is their connection's.
func (h *handler) answerPage(outer, inner http.ResponseWriter, r *http.Request) {
	o := outer.(*response)
	w := o
	if inner != outer {
		w = &response{ResponseWriter: inner, rc: http.NewResponseController(inner), stall: o.stall, session: o.session, who: o.who}
	}
	if answer, ok := routes[r.URL.EscapedPath()]; ok {
		answer(h, w, r)
		return
	}
	h.files(w, r)
}

// home is the start page for a person, and for programs the address of the files.
func (h *handler) home(w *response, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if wantsPage(r) {
		h.web.ServeHTTP(w, r)
		return
	}
	found(w, filesPrefix)
}

func isAsset(path string) bool { return strings.HasPrefix(path, web.AssetsPrefix) }
