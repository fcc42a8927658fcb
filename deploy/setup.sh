#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, and only that: setup.sh build | demo | test | bench
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # not there after a plain `su`
build=(gcc make clang bpftool libbpf-dev libelf-dev zlib1g-dev libmicrohttpd-dev libjansson-dev libyaml-dev libsqlite3-dev
	libmnl-dev libcurl4-openssl-dev linux-libc-dev libc6-dev python3 python3-yaml)
demo=("${build[@]}" iproute2 curl util-linux procps)
tests=("${demo[@]}" git libcmocka-dev python3-pytest python3-scapy python3-jsonschema nftables iputils-ping prometheus
	clang-format cppcheck shellcheck)
bench=("${tests[@]}" iptables ethtool)
case "${1:-}" in
build) wanted=("${build[@]}") ;;
demo) wanted=("${demo[@]}") ;;
test) wanted=("${tests[@]}") ;;
bench) wanted=("${bench[@]}") ;;
*)
	echo "usage: setup.sh build|demo|test|bench" >&2
	exit 2
	;;
esac

missing=()
for package in "${wanted[@]}"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "setup: these packages are missing, and only root on Debian can install them here: ${missing[*]}" >&2
	exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=120) # a machine's first minutes belong to unattended-upgrades
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
# It is here for promtool alone; Debian starts the server too.
if [[ " ${missing[*]} " == *" prometheus "* ]] && [ -d /run/systemd/system ]; then
	systemctl disable -q --now prometheus.service
fi
