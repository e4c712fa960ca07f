package proxy

import (
	"net/http"
	"time"
)

// writeDeadline gives each write to a client its time: the stall limit, which pushes
// the host's WriteTimeout back as well, as that may be over when an answer comes
// late. Not every writer has deadlines; then there is no limit. The zero value sets
// none.
type writeDeadline struct {
	rc    *http.ResponseController
	limit time.Duration // of one write
	http2 bool
	born  time.Time
	set   time.Duration // when it was set last, after born; 0: it is not
}

// renew is called before a write. Over HTTP/1.1 a deadline that was set within the
// last hundredth of its time stands: setting it costs a tenth of what writing an
// event does. Over HTTP/2 it must not stand: see rest.
func (d *writeDeadline) renew() {
	if d.limit == 0 {
		return
	}
	now := time.Since(d.born)
	if d.set > 0 && now-d.set < d.limit/100 && !d.http2 {
		return
	}
	d.set = max(now, 1)
	_ = d.rc.SetWriteDeadline(deadline(d.born.Add(now), d.limit))
}

// rest is called when nothing is written for a while: over HTTP/2 a deadline ends
// the stream when it passes, whether or not anything is being written.
func (d *writeDeadline) rest() {
	if d.http2 {
		_ = d.rc.SetWriteDeadline(time.Time{})
	}
}
