#!/usr/bin/env bash
# Measures nginx, HAProxy and Caddy in front of the proxy: installs Debian's
# packages of them where they are missing, without starting them as services.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
for program in nginx:nginx-light haproxy:haproxy caddy:caddy; do
	command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
if ((${#missing[@]})); then
	policy=/usr/sbin/policy-rc.d # asked by packages before they start anything
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
fi
go test -tags fronts -count=1 -run '^TestFronts' "$@" .
