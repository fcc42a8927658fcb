#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# inside.sh ROOT CAPABILITY,…: the image that is mounted at ROOT runs as its DaemonSet has it: a read-only root, the node's
# processes, a bpffs, the cgroups, a state and a run folder, root with those capabilities and no others. It becomes ready, answers
# its command line, and uninstalls. Wants network and mount namespaces of its own (unshare -nm).
set -euo pipefail
root=$1 capabilities=$2
mount --make-rprivate /
ip link set lo up
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -o remount,bind,ro "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
for folder in etc/penstock var/lib/penstock run/penstock; do
	mkdir -p "$root/$folder" # a runtime makes the places of its mounts
	mount -t tmpfs tmpfs "$root/$folder"
done
printf 'metrics: {listen: "127.0.0.1:7642"}\n' >"$root/etc/penstock/penstock.yaml"
mount -o remount,bind,ro "$root"

agent=(chroot "$root" setpriv --bounding-set "-all,+${capabilities//,/,+}" --inh-caps -all --no-new-privs)

touch "$root/probe" 2>/dev/null && { echo "the root is not read-only"; exit 1; }
"${agent[@]}" penstockd --check | grep -v '^ ' | tail -20
"${agent[@]}" penstockd --config /etc/penstock/penstock.yaml &
pid=$!
for _ in $(seq 100); do
	[ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7642/readyz)" = 200 ] && break
	kill -0 $pid
	sleep 0.1
done
curl -sSf http://127.0.0.1:7642/readyz
"${agent[@]}" penstock status
grep -E '^Cap(Eff|Bnd)' "/proc/$pid/status"
kill $pid
wait $pid
"${agent[@]}" penstockd --uninstall
[ ! -e "$root/sys/fs/bpf/penstock" ] || { echo "pins are left"; exit 1; }
