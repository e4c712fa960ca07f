// Package proxy lets a page talk to OpenAI through your own server, so that it
// never sees the API key. [New] returns an [http.Handler] for chat and images,
// over REST and GraphQL:
//
//	mux := http.NewServeMux()
//	mux.Handle("/ai/", http.StripPrefix("/ai", proxy.New(
//		proxy.WithAllowedOrigins("https://app.example.com"),
//	)))
//
// The official SDKs work against it with their base URL set to the mount point,
// with or without "/v1", and any text as their API key. Bytes pass untouched in
// both directions; streams are flushed as they arrive; the upstream is cancelled
// as soon as the caller leaves; and a stream that breaks never looks whole.
//
// # Routes
//
//	POST /                         chat, or images by "action" or "prompt"   worker
//	POST /images/generations       images                                    worker
//	POST /generate-image           images                                    worker
//	POST /v1/chat/completions      chat                                      OpenAI
//	POST /chat/completions         chat                                      OpenAI
//	POST /v1/images/generations    images                                    OpenAI
//	POST /v1/images/edits          image edits, a form or JSON               OpenAI
//	POST, GET /graphql             see GraphQL below; GET for queries
//	GET  /graphql/schema           its SDL
//
// The last column is the face. On the OpenAI face a request gets nothing added
// but a missing model. The worker's face is that of the worker which this
// package replaces: it fills in parameters where they are absent, for the models
// that still take them, and has flat error bodies.
//
//	model                                       added when absent
//	gpt-3.5-turbo*, gpt-4, gpt-4-turbo*,        temperature 0.7, max_tokens 1000
//	gpt-4o, gpt-4o-mini, gpt-4.1, gpt-4.1-mini  (not beside max_completion_tokens)
//	dall-e-3                                    n 1, size 1024x1024, quality standard,
//	                                            style vivid, response_format url
//	dall-e-2                                    n 1, size 1024x1024, response_format url
//	anything else                               nothing
//
// A key that is present wins, also as null or 0. [WithDefaults] replaces the
// table. [Handler.Chat], [Handler.Images] and [Handler.GraphQL] are the routes
// one by one, for paths of your own.
//
// # Keys
//
// The key comes from the environment variable OPENAI_API_KEY unless [WithKey] or
// [WithKeySource] says otherwise; [KeyFunc] gives every tenant a key of its own.
// It goes into the one header that [WithAuthHeader] names, towards the one
// upstream that [WithUpstream] names, and nowhere else: nothing in a request can
// change where a call goes, and no redirect is followed. Error texts and headers
// of the upstream are cleared of anything that looks like a key, an organization
// or a project before they are relayed or logged.
//
// # Origins
//
// Pages of the handler's own origin and callers that are no browsers, such as
// servers, are served. Pages of any other origin are refused with 403 before a
// call is made, unless [WithAllowedOrigins] lists them: hiding the answer from
// a page would not give the money back. A handler that listens on localhost
// should set [WithAllowedHosts] against DNS rebinding.
//
// # Streams
//
// What the upstream labels text/event-stream is relayed as it is read, whoever
// asked; anything else is read whole before its first byte goes out, so that no
// truncated answer looks whole. When a stream breaks, stalls or is ended by a
// limit, its last event is
//
//	data: {"error":{"message":"...","type":"upstream_error","param":null,"code":"..."}}
//
// and then the connection is cut. A client that ignores the event sees a broken
// transfer, except over HTTP/1.0, which has no other end than a closed
// connection. A clean end is passed on as a clean end, with or without [DONE].
//
// # GraphQL
//
// The schema has the worker's operations (createSession, sendMessage,
// getAIResponse, generateImage, chatHistory), and session, deleteSession and the
// subscription aiResponse, which streams an answer over server-sent events (the
// distinct connections mode of graphql-sse) or multipart, as the client accepts.
// The fields that cost money make their calls as the REST routes do, under the
// same hooks and limits; one operation may select one of them, unless
// [GraphQLOptions] allows more.
//
// With a sessionId, getAIResponse and aiResponse remember both turns, and take
// the stored ones for context where the request brings no messages; sendMessage
// stores a turn without a call. Sessions live in a [SessionStore], by default a
// [MemoryStore]. A session id is a secret of whoever was given it.
//
// Requests are held to GraphQL over HTTP: application/json only, queries alone by
// GET, no batching. Documents pass bounds on size, depth and number before they
// cost anything. A client that names no media type in Accept gets the status of
// the upstream; errors carry extensions.code.
//
// # Hooks
//
// [Hooks] sees every call: Admit may refuse it, Rewrite may change its body, Done
// learns what became of it, with the tokens used. Where anything judges bodies
// (Admit, Rewrite, a policy, a limiter), one that two readers could take in two
// ways is refused.
//
// # Callers, limits and cost
//
// Five parts, each of use alone, decide before a call is made and hold for REST
// and every GraphQL field alike, in this order:
//
//   - [WithCaller] says who calls; [Tokens] does so for pages that hold a
//     short-lived token of yours. Sessions belong to their caller.
//   - [WithPolicy], and the Policy of a [Caller], say what may be asked for.
//   - Hooks.Admit and Hooks.Rewrite.
//   - [WithLimiter] asks for room: [MemoryLimiter] bounds rates, calls at the same
//     time, tokens and money. It reserves the worst that a call can cost and
//     settles with what it did. Without a caller it counts by address, see
//     [WithTrustedProxies].
//   - The [KeySource]; [KeyPool] spreads calls over several keys.
//
// Hooks.Done then learns what the call used, as the upstream reported it or as an
// estimate, and what that costs by [WithPrices]. With [WithLogger] one record,
// "proxy call", is logged for each call at Info: caller, route, model, status, ending, bytes,
// times, and the usage if a Done hook, a limiter, prices or WithStreamUsage ask for
// it; never a prompt, a key or a header but request ids.
//
// # Limits
//
// [Limits] bounds sizes and times. Without [WithLimiter] there is no limit on
// calls or callers.
//
// # Errors
//
// Every error body that the package makes has one of these codes (in GraphQL,
// extensions.code says the same in GraphQL's manner):
//
//	missing_api_key                500  no key source had a key
//	misconfigured                  500  New was given invalid options, which it logged
//	invalid_json                   400  the body is not one JSON object
//	invalid_request                400  a field is missing or of the wrong type
//	duplicate_key                  400  a field that decides what is paid stands twice
//	body_too_large                 413  Limits.RequestBytes
//	body_timeout                   408  Limits.BodyIdle, Limits.BodyTime
//	unsupported_media_type         415  a compressed body, or a form where none is taken
//	not_found                      404  no such route
//	method_not_allowed             405  the Allow header tells what is
//	origin_not_allowed             403  see WithAllowedOrigins
//	host_not_allowed               421  see WithAllowedHosts
//	unauthorized                   401  see WithCaller
//	forbidden                      403  see WithPolicy, Tokens and Hooks.Admit
//	rate_limited                   429  see WithLimiter; Retry-After says when to come back
//	key_unavailable                503  the key source failed, took too long, or all its keys rest
//	shutting_down                  503  see Handler.Shutdown
//	streaming_unsupported_by_host  500  a middleware hides Flush
//	upstream_auth                  502  the upstream does not accept the server's key
//	upstream_unreachable           502  no connection, or it broke before the answer
//	upstream_bad_response          502  an answer that is no answer
//	upstream_redirect              502  redirects are not followed
//	upstream_timeout               504  Limits.HeaderTime, Limits.StreamIdle
//	upstream_disconnected          ---  in a stream: the upstream broke it off
//	stream_limit                   ---  in a stream: Limits.StreamMax or ResponseBytes
//	internal_error                 500  a hook failed or panicked; 503: WithCaller or WithLimiter did
//
// An error of the upstream keeps its status, its retry headers and its own code.
// The official SDKs repeat 408, 409, 429 and every 5xx; where that cannot help,
// x-should-retry: false tells them.
//
// # What a host must not do
//
// Streaming needs a ResponseWriter that can flush. [http.TimeoutHandler] and
// wrappers that have neither Flush nor Unwrap take that away: requests for
// streams are then answered with 500 before anything is paid. A mux pattern with
// a method ("POST /ai/") hides OPTIONS, and with it every preflight: mount
// without one. StripPrefix wants its prefix without the last slash. Middleware
// that compresses or buffers delays every event. http.Server.WriteTimeout does
// no harm: each write renews the deadline.
//
// # Testing
//
// Package proxytest has a scripted fake of the upstream for your own tests.
package proxy
