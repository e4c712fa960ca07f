#!/usr/bin/env bash
# Everything real that talks to the proxy: GraphQL clients and audits, the official
# SDKs straight and through it, and a browser. Needs Go, Node 20.15 or newer, npm, and
# Chromium, which it installs from Debian's packages where it may.
set -euo pipefail
cd "$(dirname "$0")"

for suite in graphql sdk browser; do
	printf '\n-- %s\n' "$suite"
	REPORTER=${REPORTER:-dot} bash "$suite/run.sh"
done
