#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, and only that: setup.sh build | demo | demo-haproxy | test | bench
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # not there after a plain `su`
build=(gcc make clang bpftool libbpf-dev libelf-dev zlib1g-dev libmicrohttpd-dev libgnutls28-dev libjansson-dev libyaml-dev libsqlite3-dev
	libmnl-dev libnftables-dev libcurl4-openssl-dev linux-libc-dev libc6-dev python3 python3-yaml)
demo=("${build[@]}" iproute2 curl openssl util-linux procps)
tests=("${demo[@]}" git libcmocka-dev python3-pytest python3-scapy python3-jsonschema nftables iptables iputils-ping prometheus
	clang-format cppcheck shellcheck haproxy nginx libnginx-mod-stream socat squid mitmproxy trafficserver ethtool
	ngtcp2-client ngtcp2-server chromium-headless-shell fonts-dejavu-core groff-base systemd
	golang-go golang-github-masterminds-sprig-dev golang-gopkg-yaml.v2-dev)
command -v kubectl >/dev/null || tests+=(kubernetes-client)
daemons=(prometheus haproxy nginx squid trafficserver ngtcp2-server) # Debian starts them; here the programs alone are wanted
bench=("${tests[@]}")
case "${1:-}" in
build) wanted=("${build[@]}") ;;
demo) wanted=("${demo[@]}") ;;
demo-haproxy) wanted=("${demo[@]}" haproxy) ;;
test) wanted=("${tests[@]}") ;;
bench) wanted=("${bench[@]}") ;;
*)
	echo "usage: setup.sh build|demo|demo-haproxy|test|bench" >&2
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
if [ ! -e /usr/sbin/policy-rc.d ]; then
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
fi
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
for daemon in "${daemons[@]}"; do
	if [[ " ${missing[*]} " == *" $daemon "* ]] && [ -d /run/systemd/system ]; then
		systemctl disable -q --now "${daemon/ngtcp2-server/ngtcp2d}.service" # not at the next boot either
	fi
done
