#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, and only that: setup.sh build | demo | test | bench
set -euo pipefail
build=(gcc make clang llvm bpftool pkg-config libbpf-dev libelf-dev zlib1g-dev libmicrohttpd-dev libjansson-dev libyaml-dev
	libsqlite3-dev libmnl-dev libcurl4-openssl-dev linux-libc-dev libc6-dev python3 python3-yaml)
demo=("${build[@]}" iproute2 curl jq util-linux procps)
tests=("${demo[@]}" libcmocka-dev python3-pytest python3-pyroute2 python3-scapy python3-jsonschema clang-format clang-tidy cppcheck
	shellcheck nftables iptables prometheus git kmod iputils-ping)
case "${1:-}" in
build) wanted=("${build[@]}") ;;
demo) wanted=("${demo[@]}") ;;
test | bench) wanted=("${tests[@]}") ;;
*)
	echo "usage: setup.sh build|demo|test|bench" >&2
	exit 2
	;;
esac

missing=()
for package in "${wanted[@]}"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
	echo "installing: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
