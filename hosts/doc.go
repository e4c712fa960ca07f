// Package hosts mounts the proxy in the routers and behind the middlewares that
// Go servers have, and measures what becomes of it there. Its README has the
// result. The programs beside it show one good way for each router.
package hosts
