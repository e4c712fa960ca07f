package proxy

import (
	"crypto/tls"
	"net/http"
	"testing"
	"time"
)

// The figures that NewHandler documents for its transport.
func TestF12TransportIsAsDocumented(t *testing.T) {
	for _, envProxy := range []bool{false, true} {
		got := newTransport(envProxy)
		for name, row := range map[string]struct{ got, want any }{
			"a dial takes":                   {newDialer().Timeout, 5 * time.Second},
			"TLS takes":                      {got.TLSHandshakeTimeout, 5 * time.Second},
			"the least TLS":                  {got.TLSClientConfig.MinVersion, uint16(tls.VersionTLS12)},
			"certificates are not looked at": {got.TLSClientConfig.InsecureSkipVerify, false},
			"HTTP/2 is preferred":            {got.ForceAttemptHTTP2, true},
			"idle connections stay":          {got.IdleConnTimeout, 30 * time.Second},
			"idle connections to a host":     {got.MaxIdleConnsPerHost, 64},
			"idle connections to all hosts":  {got.MaxIdleConns, 0},
			"connections to a host":          {got.MaxConnsPerHost, 0},
			"keep-alive is off":              {got.DisableKeepAlives, false},
			"bytes of answer headers":        {got.MaxResponseHeaderBytes, int64(256 << 10)},
			"compression is off":             {got.DisableCompression, true},
			"headers may take":               {got.ResponseHeaderTimeout, time.Duration(0)}, // HeaderTime
			"a ping comes after":             {got.HTTP2.SendPingTimeout, 15 * time.Second},
			"its answer takes":               {got.HTTP2.PingTimeout, 5 * time.Second},
			"a write makes no progress for":  {got.HTTP2.WriteByteTimeout, 10 * time.Second},
			"a proxy is used":                {got.Proxy != nil, envProxy},
		} {
			if row.got != row.want {
				t.Errorf("envProxy %v: %s %v, want %v", envProxy, name, row.got, row.want)
			}
		}
		if got.DialContext == nil || got.DialTLSContext != nil || got.Protocols != nil {
			t.Errorf("it dials in another way: %+v", got)
		}
	}
}

// A handler that was given no transport has that one.
func TestF12TransportIsTheDefault(t *testing.T) {
	for _, envProxy := range []bool{false, true} {
		h, err := NewHandler(WithKey("sk-x"), WithProxyFromEnvironment(envProxy))
		if err != nil {
			t.Fatal(err)
		}
		got, ok := h.upstream.transport.(*http.Transport)
		if !ok || got == http.DefaultTransport || got.MaxResponseHeaderBytes != 256<<10 || (got.Proxy != nil) != envProxy {
			t.Errorf("the transport is %#v", h.upstream.transport)
		}
	}
}
