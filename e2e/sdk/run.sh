#!/usr/bin/env bash
# The official SDKs, unmodified, against a third party's fake of the API: straight
# and through examples/server. What they see must be the same. Needs Go, Node 20.15
# or newer, and npm; installs the rest; takes about a minute.
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

timeout -k 5 300 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error || die "the SDKs could not be installed"
timeout -k 5 300 go -C ../.. build -o "$temp/server" ./examples/server || die "the server could not be built"
timeout -k 5 300 go -C go build -o "$temp/sdks" . || die "the Go SDKs could not be built"

mkfifo "$temp/stdin"
exec 3<>"$temp/stdin"
node upstream.mjs <&3 >"$temp/upstream" 2>"$temp/upstream.log" &
pids+=($!)
UPSTREAM_URL=$(line "$temp/upstream")
env -u OPENAI_API_KEY_FILE OPENAI_API_KEY=sk-e2e-server-0123456789 OPENAI_BASE_URL="$UPSTREAM_URL/v1" LISTEN=127.0.0.1:0 \
	"$temp/server" >"$temp/proxy" 2>"$temp/proxy.log" &
pids+=($!)
PROXY_URL=$(line "$temp/proxy" | sed 's/^Listening on //')
export UPSTREAM_URL PROXY_URL

status=0
timeout -k 5 120 node compare.mjs || status=$?
timeout -k 5 120 "$temp/sdks" || status=$?
timeout -k 5 120 go -C go test ./... || status=$?
if grep -q 'sk-e2e-server' "$temp/proxy.log"; then
	echo "the server's key is in its log" >&2
	status=1
fi
if [ "$status" -ne 0 ]; then
	echo "the end of the server's log:" >&2
	tail -n 20 "$temp/proxy.log" >&2
fi
exit "$status"
