package proxy

import "net/http"

// headerValues sets canonical names of one header to single values. They lie
// side by side, where Header.Set would allocate for each, and are fresh for each
// header: a shared slice could be changed by a middleware of the host. It must not
// be copied once it was used.
type headerValues struct {
	http.Header
	first  [8]string
	values []string
}

// set gives a name one value.
func (h *headerValues) set(name, value string) {
	switch {
	case h.values == nil:
		h.values = h.first[:0]
	case len(h.values) == cap(h.values):
		h.values = make([]string, 0, len(h.first))
	}
	h.values = append(h.values, value)
	n := len(h.values)
	h.Header[name] = h.values[n-1 : n : n] // whoever appends gets a copy
}

// add gives a name one value more.
func (h *headerValues) add(name, value string) {
	if len(h.Header[name]) == 0 {
		h.set(name, value)
		return
	}
	h.Add(name, value)
}
