#!/usr/bin/env bash
# GraphQL clients from npm against the proxy: installs them, starts the server
# under test on free ports of the loopback interface, runs the tests, stops it.
# Needs Go, Node 20.11 or newer, and npm. Takes under a minute; no step waits
# without a bound.
set -euo pipefail
cd "$(dirname "$0")"

temp=$(mktemp -d)
server=
cleanup() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$temp"
}
trap cleanup EXIT

die() {
	echo "$*" >&2
	exit 1
}

timeout -k 5 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error ||
	die "the clients could not be installed"
timeout -k 5 90 go build -o "$temp/server" ./server || die "the server could not be built"

"$temp/server" >"$temp/addresses" 2>"$temp/log" &
server=$!
for _ in $(seq 100); do
	if [ -s "$temp/addresses" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
	sleep 0.1
done
[ -s "$temp/addresses" ] || die "the server did not start: $(cat "$temp/log")"
PROXY_URL=$(sed 's/.*"proxy":"\([^"]*\)".*/\1/' "$temp/addresses")
UPSTREAM_URL=$(sed 's/.*"upstream":"\([^"]*\)".*/\1/' "$temp/addresses")
export PROXY_URL UPSTREAM_URL

status=0
timeout -k 5 75 node --test --test-reporter="${REPORTER:-spec}" ./*.test.mjs || status=$?
if [ "$status" -ne 0 ]; then
	echo "the end of the server's log:" >&2
	tail -n 50 "$temp/log" >&2
fi
exit "$status"
