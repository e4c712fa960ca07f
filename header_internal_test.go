package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
)

func TestHeaderValuesKeepApart(t *testing.T) {
	t.Parallel()
	h := headerValues{Header: http.Header{}}
	h.set("User-Agent", "")
	for i := range 40 {
		h.set("X-"+strconv.Itoa(i), strconv.Itoa(i))
	}
	h.Header["X-3"] = append(h.Header["X-3"], "appended") // as a middleware might
	h.add("X-5", "more")
	for i := range 40 {
		want := []string{strconv.Itoa(i)}
		switch i {
		case 3:
			want = append(want, "appended")
		case 5:
			want = append(want, "more")
		}
		if got := h.Header["X-"+strconv.Itoa(i)]; !slices.Equal(got, want) {
			t.Errorf("value %d is %q, want %q", i, got, want)
		}
	}
	if got := h.Header["User-Agent"]; !slices.Equal(got, []string{""}) {
		t.Errorf("the empty value is %q", got)
	}
}
