package files

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vmfr/agent/audit"
	"vmfr/agent/tree"
)

const (
	loginPath  = "/login"
	logoutPath = "/logout"
	// maxForm bounds the body of a login, in bytes; bodyTimeout the time that it may take.
	maxForm     = 8 << 10
	bodyTimeout = 10 * time.Second
)

// authenticate tells whether the request may go on; if not, it is answered. People have a
// session's cookie, programs send the password each time.
func (h *handler) authenticate(w *response, r *http.Request) bool {
	w.who = audit.Who{Via: "https", User: h.cfg.User, Address: r.RemoteAddr}
	if se := h.sessions.ofCookie(r); se != nil {
		w.session, w.who.Session = se, se.id
		return true
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		h.unauthorized(w, r)
		return false
	}
	switch h.try(w, r, user, password) {
	case granted:
		k := sessionKey{addr: clientOf(r.RemoteAddr)}
		se := h.sessions.get(k)
		if se == nil {
			se = h.sessions.add(k, basicIdle)
			w.who.Session = se.id
			return h.admit(w, r)
		}
		w.who.Session = se.id
		return true
	case limited:
		h.tooMany(w, r)
	default:
		h.unauthorized(w, r)
	}
	return false
}

// try judges a password, counts and slows wrong ones.
func (h *handler) try(w *response, r *http.Request, user, password string) verdict {
	v := h.gate.check(clientOf(r.RemoteAddr), user, password)
	if v == granted {
		return v
	}
	h.cfg.Logins.count(v)
	who := audit.Who{Via: "https", User: user, Address: r.RemoteAddr}
	if v == wrong {
		h.cfg.Audit.Refused(who, "login", "wrong user or password")
		h.cfg.wait(r.Context(), failureDelay)
		w.extend(time.Now())
	} else {
		h.cfg.Audit.Refused(who, "login", "too many wrong passwords")
	}
	return v
}

// admit records a login. Where it cannot be recorded nobody is let in.
func (h *handler) admit(w *response, r *http.Request) bool {
	h.cfg.Logins.count(granted)
	if err := h.cfg.Audit.Login(w.who); err != nil {
		h.log.ErrorContext(r.Context(), "login refused: it cannot be recorded", "error", err.Error())
		w.Header().Set("Retry-After", "30")
		h.refuse(w, r, http.StatusServiceUnavailable, "audit", "Logins cannot be recorded at the moment.", "The administrator must see to the audit log.")
		return false
	}
	return true
}

// unauthorized asks for the password: a person by the login page, a program by a challenge,
// which would make a browser's script open a window.
func (h *handler) unauthorized(w *response, r *http.Request) {
	if wantsPage(r) {
		w.Header().Set("Cache-Control", noStore)
		w.Header().Set("Location", loginPath+"?next="+url.QueryEscape(r.URL.RequestURI()))
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	if r.Header.Get("Sec-Fetch-Site") == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="vmfr backups", charset="UTF-8"`)
	}
	h.refuse(w, r, http.StatusUnauthorized, "unauthorized", "A user name and the password of this session are needed.",
		"With curl: -u USER:PASSWORD; the password is in the session's password file or Secret. People log in at /login.")
}

func (h *handler) tooMany(w *response, r *http.Request) {
	w.Header().Set("Retry-After", strconv.Itoa(int(addrEvery/time.Second)))
	h.refuse(w, r, http.StatusTooManyRequests, "too_many_failures", "Too many wrong passwords came from this address.",
		"Wait a few seconds, then use the password of this session.")
}

// wantsPage tells a person's browser that opens an address from programs and scripts.
func wantsPage(r *http.Request) bool {
	mode := r.Header.Get("Sec-Fetch-Mode")
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (mode == "" || mode == "navigate") && accepts(r.Header, "text/html")
}

// login answers /login: the form, and what it sends.
func (h *handler) login(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		next := localPath(r.URL.Query().Get("next"))
		if h.sessions.ofCookie(r) != nil {
			seeOther(w, next)
			return
		}
		h.web.Login(w, r, http.StatusOK, next, "")
		return
	}
	f, ok := h.post(w, r)
	if !ok {
		return
	}
	next := localPath(f.Get("next"))
	switch h.try(w, r, f.Get("user"), f.Get("password")) {
	case granted:
		token, se := h.sessions.begin()
		w.who = audit.Who{Session: se.id, Via: "https", User: h.cfg.User, Address: r.RemoteAddr}
		if !h.admit(w, r) {
			h.sessions.end(se)
			return
		}
		http.SetCookie(w, cookie(token))
		seeOther(w, next)
	case limited:
		w.Header().Set("Retry-After", strconv.Itoa(int(addrEvery/time.Second)))
		h.web.Login(w, r, http.StatusTooManyRequests, next, "Too many wrong passwords came from this address. Wait a few seconds.")
	default:
		h.web.Login(w, r, http.StatusUnauthorized, next, "The user or the password is wrong. They are in the session's password file or Secret.")
	}
}

// logout answers /logout, which ends the session of the cookie.
func (h *handler) logout(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		h.refuse(w, r, http.StatusMethodNotAllowed, "method_not_allowed", "Logging out changes something, so it is no GET.", "Use POST.")
		return
	}
	if _, ok := h.post(w, r); !ok {
		return
	}
	if se := h.sessions.ofCookie(r); se != nil {
		h.sessions.end(se)
		h.cfg.Audit.Logout(audit.Who{Session: se.id, Via: "https", User: h.cfg.User, Address: r.RemoteAddr}, h.cfg.now().Sub(se.from))
	}
	http.SetCookie(w, cookie(""))
	w.Header().Set("Clear-Site-Data", `"cache", "cookies", "storage"`)
	seeOther(w, loginPath)
}

// post reads a form that comes from our own pages, or from a program.
func (h *handler) post(w *response, r *http.Request) (url.Values, bool) {
	w.Header().Set("Cache-Control", noStore)
	if err := h.csrf.Check(r); err != nil {
		h.cfg.Counters.Count(tree.OpRefused)
		h.refuse(w, r, http.StatusForbidden, "cross_origin", "The request comes from a page of another site.", "Open this server's own page and try there.")
		return nil, false
	}
	_ = w.rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		h.refuse(w, r, http.StatusBadRequest, "bad_form", "The form cannot be read.", "Send user and password as application/x-www-form-urlencoded.")
		return nil, false
	}
	return r.PostForm, true
}

// localPath is where a person goes after the login: an address of this server, whatever next is.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || !strings.HasPrefix(u.EscapedPath(), "/") ||
		strings.HasPrefix(u.EscapedPath(), "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return u.RequestURI()
}

func seeOther(w *response, to string) {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", noStore)
	w.WriteHeader(http.StatusSeeOther)
}
