package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// site has what logging in, logging out and calling share.
type site struct {
	cfg      config
	sessions *sessions
}

// caller tells the proxy who calls. It runs behind the check of the origin and
// before the body is read; a preflight, which never has a cookie, is answered
// before. An *proxy.Error has the headers and the form that the page can read.
func (s *site) caller(r *http.Request) (proxy.Caller, error) {
	user, ok := s.sessions.user(s.sessionID(r))
	if !ok {
		return proxy.Caller{}, &proxy.Error{Status: http.StatusUnauthorized, Message: "Log in first."}
	}
	return proxy.Caller{ID: user}, nil
}

// login starts a session for whoever knows a password.
func (s *site) login(w http.ResponseWriter, r *http.Request) {
	var given struct{ User, Password string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&given); err != nil {
		refuse(w, http.StatusBadRequest, `Send {"user":"...","password":"..."}.`)
		return
	}
	known, wait := s.cfg.users.check(given.User, given.Password)
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		refuse(w, http.StatusTooManyRequests, "Too many attempts. Try again later.")
		return
	}
	if !known {
		refuse(w, http.StatusUnauthorized, "The user or the password is wrong.") // and not which
		return
	}
	// Always a new id: one that somebody has planted in the browser is worth
	// nothing after the login, and the old session is over.
	s.sessions.end(s.sessionID(r))
	http.SetCookie(w, s.cookie(s.sessions.begin(given.User), sessionTime))
	w.WriteHeader(http.StatusNoContent)
}

// logout ends the session, here and in the browser. A stream under way goes on:
// the proxy asks who calls once, at the start.
func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	s.sessions.end(s.sessionID(r))
	http.SetCookie(w, s.cookie("", -time.Second)) // Max-Age=0: delete it
	w.WriteHeader(http.StatusNoContent)
}

// cookie carries a session. No script can read it (HttpOnly), and over plain
// HTTP it is not sent (Secure). The prefix __Host- makes browsers insist on
// Secure, on this host alone and on the path "/", so that no subdomain can plant
// another one. The path covers /ai/ and /logout.
//
// A page of the same site, such as app.example.com for api.example.com, or
// another port of localhost, sends it under the strictest SameSite. A page of
// another site needs SameSite=None, and Partitioned where browsers give third
// parties no other cookies.
func (s *site) cookie(value string, age time.Duration) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // Secure, but for -dev
		Name: s.cookieName(), Value: value, Path: "/", MaxAge: int(age / time.Second),
		HttpOnly: true, Secure: !s.cfg.dev, SameSite: http.SameSiteStrictMode,
	}
	if s.cfg.crossSite {
		c.SameSite, c.Partitioned = http.SameSiteNoneMode, true
	}
	return c
}

func (s *site) cookieName() string {
	if s.cfg.dev {
		return "session" // the prefix needs Secure
	}
	return "__Host-session"
}

// sessionID is the id that the request brings, or "".
func (s *site) sessionID(r *http.Request) string {
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return ""
	}
	return c.Value
}

// forThePage puts around a route of our own what the proxy does for itself.
//
// CORS lets the page read the answer, with its cookie. It keeps nobody out: a
// page elsewhere can have a form sent here and needs no answer. It could log its
// visitor in as a user of its own (login CSRF), who then chats into a stranger's
// account, or log them out. So every request that changes something must say
// that it comes from the page, by Sec-Fetch-Site or Origin, which no page can
// forge; callers that send neither are no browsers and have no cookies to abuse.
func (s *site) forThePage(route http.HandlerFunc) (http.Handler, error) {
	protection := http.NewCrossOriginProtection()
	if err := protection.AddTrustedOrigin(s.cfg.origin); err != nil {
		return nil, err
	}
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "This origin may not log in here.")
	}))
	protected := protection.Handler(route)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Vary", "Origin")
		header.Set("Cache-Control", "no-store")
		if r.Header.Get("Origin") == s.cfg.origin {
			header.Set("Access-Control-Allow-Origin", s.cfg.origin)
			header.Set("Access-Control-Allow-Credentials", "true")
			header.Set("Access-Control-Expose-Headers", "Retry-After")
			header.Set("Access-Control-Allow-Methods", "POST")
			header.Set("Access-Control-Allow-Headers", "Content-Type")
		}
		switch r.Method {
		case http.MethodOptions:
			w.WriteHeader(http.StatusNoContent)
		case http.MethodPost:
			protected.ServeHTTP(w, r)
		default:
			header.Set("Allow", "POST, OPTIONS")
			refuse(w, http.StatusMethodNotAllowed, "Use POST.")
		}
	}), nil
}

// refuse answers with an error in the shape of the proxy's own.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	var body struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Message = message
	_ = json.NewEncoder(w).Encode(body) // whoever asked may be gone
}
