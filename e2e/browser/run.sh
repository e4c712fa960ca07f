#!/usr/bin/env bash
# The demo page and the official SDK in a real Chromium against the proxy:
# installs what is missing, starts the servers on free ports of the loopback
# interface, runs the tests, stops everything. Needs Go, Node 20.11 or newer, npm,
# and Chromium, or root on Debian to install it. Takes about a minute; no step
# waits without a bound.
set -euo pipefail
cd "$(dirname "$0")"

temp=$(mktemp -d)
pids=()
cleanup() {
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$temp"
}
trap cleanup EXIT

die() {
	echo "$*" >&2
	exit 1
}

# line FILE waits for the first line of a file.
line() {
	for _ in $(seq 100); do
		if [ -s "$1" ]; then break; fi
		sleep 0.1
	done
	[ -s "$1" ] || die "nothing in $1 after 10 seconds"
	head -n 1 "$1"
}

# address NAME is where the server under test has what is called so.
address() { sed 's/.*"'"$1"'":"\([^"]*\)".*/\1/' <<<"$addresses"; }

CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
if [ ! -x "$CHROMIUM" ]; then
	[ "$CHROMIUM" = /usr/bin/chromium ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null ||
		die "there is no browser at $CHROMIUM: install Debian's package chromium, or name another in CHROMIUM"
	{ timeout -k 5 120 apt-get update && timeout -k 5 420 apt-get install -y --no-install-recommends chromium; } >"$temp/apt" 2>&1 ||
		die "chromium could not be installed: $(tail -n 5 "$temp/apt")"
fi
export CHROMIUM

timeout -k 5 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error || die "the npm packages could not be installed"
timeout -k 5 300 go -C ../.. build -o "$temp/" ./examples/server || die "the demo could not be built"
mv "$temp/server" "$temp/demo"
timeout -k 5 90 go build -o "$temp/server" ./server || die "the server could not be built"

"$temp/demo" -demo -listen 127.0.0.1:0 >"$temp/demo.out" 2>"$temp/demo.log" &
pids+=($!)
DEMO_URL=$(line "$temp/demo.out" | sed 's/^Listening on //')
"$temp/server" -demo "$DEMO_URL" -site . >"$temp/addresses" 2>"$temp/log" &
pids+=($!)
addresses=$(line "$temp/addresses")
PROXY_URL=$(address proxy) UPSTREAM_URL=$(address upstream) MEMBERS_URL=$(address members)
ALLOWED_URL=$(address allowed) STRANGER_URL=$(address stranger)
export DEMO_URL PROXY_URL UPSTREAM_URL MEMBERS_URL ALLOWED_URL STRANGER_URL

status=0
timeout -k 5 180 node --test --test-concurrency=2 --test-reporter="${REPORTER:-spec}" ./*.test.mjs || status=$?
if grep -q 'sk-e2e-server' "$temp/log"; then
	echo "the server's key is in its log" >&2
	status=1
fi
if [ "$status" -ne 0 ]; then
	echo "the end of the servers' logs:" >&2
	tail -n 20 "$temp/demo.log" "$temp/log" >&2
fi
exit "$status"
