// Package proxytest helps to test a handler that talks to the OpenAI API
// without talking to it: no key, no network, no bill.
//
// [Upstream] is a fake of the API on a real loopback listener. It answers
// plausibly with no script, plays scripted answers in order, and keeps the
// requests it got:
//
//	up := proxytest.NewUpstream(t)
//	srv := proxytest.Serve(t, handlerFor(up.URL(), up.Transport()))
//	up.Queue(proxytest.ChatStream("Hel", "lo"), proxytest.RateLimited(time.Second))
//	resp, err := srv.Client().Post(srv.URL+"/chat/completions", "application/json", body)
//	...
//	got := up.Next() // what the handler sent
//
// # Answers and steps
//
// An [Answer] is one whole reply: [JSON], [Chat], [ChatStream], [Failure],
// [RateLimited], the images, or anything by [Stream], [Respond], [Raw] and
// [HandlerFunc]. What a network does to a reply is a [Step] of it: [Text] sends
// a piece, [Pause] and [Gate] hold it back, [Silence] says no more, [Cut] and
// [Reset] break the connection. A gate lets a test look at the first event
// while the second is still to come:
//
//	more := make(chan struct{})
//	up.Queue(proxytest.Stream(
//		proxytest.Text("data: one\n\n"), proxytest.Gate(more), proxytest.Cut()))
//
// [Answer.After] puts steps before the headers.
//
// A [Dialect] has the answers of a server that resembles OpenAI's where they
// differ: proxytest.Mistral.Failure(422, "...") refuses as Mistral does.
//
// # Servers
//
// [Serve] puts the handler under test on a listener and gives a client for it.
// It and [NewUpstream] take the same options: [HTTP2], [InMemory] for bubbles of
// testing/synctest, [Configure] for timeouts of the http.Server. Both close
// themselves when the test ends, whatever a script is waiting for, and fail the
// test when a handler outlives that by 10 seconds.
//
// # Streams
//
// [EventReader] and [ReadEvents] read server-sent events as a browser does.
package proxytest
