#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `make demo`: penstock's main job on real packets, on one machine and in namespaces of its own.
#
#     chat  ─┐
#     batch ─┼─ node (penstockd, penstock-relay) ─── provider, an outside host at 203.0.113.9
#     api   ─┘
#
# What is printed after a `$` is what is run. Everything made here is removed again, also after Ctrl-C. The exit code is
# the number of expectations that were not met.
set -euo pipefail
cd "$(dirname "$0")"
repository=$(cd ../.. && pwd)
build=${PENSTOCK_BUILD:-${B:-build}}
[[ $build = /* ]] || build=$repository/$build
PATH=$build:$PATH:/usr/sbin:/sbin

dir=/run/penstock-demo
socket=$dir/penstock.sock
pins=/sys/fs/bpf/penstock-demo
spaces=(node chat batch api provider)
missed=0
mounted=

# ---- a terminal's pleasure ----

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' blue=$'\e[36m' plain=$'\e[0m'
else
	bold='' dim='' green='' red='' blue='' plain=''
fi
number=0
step() { number=$((number + 1)) && printf '\n%s%d  %s%s\n' "$bold" "$number" "$1" "$plain"; }
note() { printf '   %s%s%s\n' "$dim" "$1" "$plain"; }
good() { printf '   %s✔%s %s\n' "$green" "$plain" "$1"; }
bad() { missed=$((missed + 1)) && printf '   %s✘ %s%s\n' "$red" "$1" "$plain"; }
show() { sed "s/^/     /; s/\$/$plain/; s/^/$dim/"; }

# on SPACE COMMAND: shows the command, runs it there, shows and keeps what it said.
on() {
	local space=$1 command=$2 status=0
	printf '   %s%s $%s %s\n' "$blue" "$space" "$plain" "$command"
	said=$(within "$space" bash -c "$command" 2>&1) || status=$?
	[ -z "$said" ] || show <<<"$said"
	return $status
}
within() { nsenter --net="/run/netns/penstock-demo-$1" "${@:2}"; }
expect() { # STATUS-OF-THE-CHECK "what must be so"
	if [ "$1" = 0 ]; then good "$2"; else bad "$2: it is not so"; fi
}
# The checks: the last command's answer holds a text.
says() { if [[ $said == *"$1"* ]]; then good "$2"; else bad "$2: wanted: $1"; fi; }

# ---- what is made, and removed ----

# Everything that runs in the demo's namespaces; politely, then not.
stop() {
	local space how
	for how in TERM KILL; do
		for space in "${spaces[@]}"; do
			ip netns pids "penstock-demo-$space" 2>/dev/null | xargs -r kill -$how 2>/dev/null
		done
		for _ in {1..50}; do
			[ -n "$(for space in "${spaces[@]}"; do ip netns pids "penstock-demo-$space" 2>/dev/null; done)" ] || break 2
			sleep 0.05
		done
	done
	wait 2>/dev/null
}

# shellcheck disable=SC2317  # called by the trap
cleanup() {
	local status=$?
	trap - EXIT INT TERM HUP
	set +e
	stop
	if [ -e "$dir/penstock.yaml" ] && [ -e "$pins" ]; then
		step 'Clean up: --uninstall removes what the agent left in the kernel, and proves it'
		if on node "penstockd --config $dir/penstock.yaml --uninstall" && [ ! -e "$pins" ]; then
			good 'nothing of penstock is left'
		else
			bad 'penstockd --uninstall did not remove everything'
			[ "$status" != 0 ] || status=1
			rm -rf "$pins"
		fi
	fi
	for space in "${spaces[@]}"; do ip netns del "penstock-demo-$space" 2>/dev/null; done
	[ -z "$mounted" ] || umount /sys/fs/bpf
	rm -rf "$dir"
	if [ "$status" != 0 ] && [ "$missed" = 0 ]; then printf '\n%sThe demo was interrupted.%s\n' "$red" "$plain"; fi
	exit "$status"
}

pod() { # NAME IPV4 IPV6: a veth into the node, routes as Calico and most clouds make them
	local space=penstock-demo-$1
	ip -n penstock-demo-node -batch - <<-END
		link add veth-$1 type veth peer name eth0 netns $space
		addr add 169.254.1.1/32 dev veth-$1 scope link
		addr add fe80::1/64 dev veth-$1 nodad
		link set veth-$1 up
		route add $2/32 dev veth-$1 src 10.77.0.1
		route add $3/128 dev veth-$1 src fd00:77::1
	END
	ip -n "$space" -batch - <<-END
		link set eth0 up
		addr add $2/32 dev eth0
		addr add $3/128 dev eth0 nodad
		route add 169.254.1.1 dev eth0
		route add default via 169.254.1.1
		route add default via fe80::1 dev eth0
	END
}

start() { # SPACE LOG COMMAND…: in the background, until cleanup
	local space=$1 log=$2
	shift 2
	nsenter --net="/run/netns/penstock-demo-$space" "$@" >"$log" 2>&1 &
}

wait_for() { # SECONDS WHAT COMMAND…
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $end ]; then
			bad "$what did not come up"
			for log in "$dir"/*.log; do tail -n 20 "$log" | show; done
			exit 1
		fi
		sleep 0.05
	done
}

[ "$(id -u)" = 0 ] || { echo 'demo: needs root, for namespaces and BPF' >&2 && exit 1; }
for program in penstockd penstock-relay; do
	[ -x "$build/$program" ] || { echo "demo: $build/$program is missing: run make first" >&2 && exit 1; }
done
exec 9>/run/penstock-demo.lock
flock -n 9 || { echo 'demo: another one is running' >&2 && exit 1; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- the story ----

step 'A node, two client pods, a server pod, an outside host: network namespaces'
stop || true # what an earlier demo left that was killed
for space in "${spaces[@]}"; do ip netns del "penstock-demo-$space" 2>/dev/null || true; done
rm -rf "$dir" "$pins" && mkdir -p "$dir"
if ! findmnt -n -t bpf /sys/fs/bpf >/dev/null; then mount -t bpf bpf /sys/fs/bpf && mounted=1; fi
for space in "${spaces[@]}"; do
	ip netns add "penstock-demo-$space"
	ip -n "penstock-demo-$space" link set lo up
done
within node sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip -n penstock-demo-node -batch - <<END
addr add 10.77.0.1/32 dev lo
addr add fd00:77::1/128 dev lo nodad
link add uplink type veth peer name eth0 netns penstock-demo-provider
link set uplink up
addr add 198.51.100.1/24 dev uplink
route add default via 198.51.100.9
END
ip -n penstock-demo-provider -batch - <<END
link set eth0 up
addr add 198.51.100.9/24 dev eth0
addr add 203.0.113.9/32 dev lo
route add default via 198.51.100.1
END
pod chat 10.77.0.2 fd00:77::2
pod batch 10.77.0.3 fd00:77::3
pod api 10.77.0.4 fd00:77::4
start api "$dir/api.log" ./serve.py api 8080
start provider "$dir/provider.log" ./serve.py provider 443
wait_for 5 'the server pod' within api curl -sf http://127.0.0.1:8080/
wait_for 5 'the outside host' within provider curl -sf http://127.0.0.1:443/
note 'chat 10.77.0.2    batch 10.77.0.3    api 10.77.0.4:8080    provider 203.0.113.9:443, beyond the uplink'

step 'The agent on the node, with a configuration of its own'
cat >$dir/penstock.yaml <<END
node: { name: node-1 }
api: { unix: $socket }
metrics: { listen: "127.0.0.1:7642" }
state: { directory: $dir/state }
datapath: { pinDirectory: $pins, connectionsMax: 16384 }
END
printf '   %snode $%s penstockd --config %s &\n' "$blue" "$plain" "$dir/penstock.yaml"
show <$dir/penstock.yaml
start node "$dir/penstockd.log" penstockd --config $dir/penstock.yaml
wait_for 15 penstockd curl -sf --unix-socket $socket http://penstock/readyz
good 'ready'

step 'Real Kubernetes objects over HTTP: a Namespace and three Pods, as kubectl prints them'
on node "curl -sS --unix-socket $socket -X PUT http://penstock/v1/state -H 'Content-Type: application/json' -d @cluster.json" || true
says '"revision"' 'answered 200: enforced, durable, and read back from the kernel'
on batch 'curl -sS --max-time 2 http://10.77.0.4:8080/' || true
says 'hello from api, you are 10.77.0.3' 'no policy yet: batch reaches api'

step 'A NetworkPolicy: only chat may reach api, and only its port named http'
on node "curl -sS --unix-socket $socket -X PUT http://penstock/v1/networkpolicies/shop/api -H 'Content-Type: application/json' -d @policy.json" || true
says '"revision"' 'enforced'

step 'An allowed connection'
on chat 'curl -sS --max-time 2 http://10.77.0.4:8080/' || true
says 'hello from api, you are 10.77.0.2' 'chat reaches api'
on chat 'curl -sS --max-time 2 http://[fd00:77::4]:8080/' || true
says 'hello from api, you are fd00:77::2' 'and over IPv6'

step 'A denied one: dropped, so there is no answer at all'
status=0 && on batch 'curl -sS --max-time 1 http://10.77.0.4:8080/' || status=$?
expect $((status != 28)) 'batch does not reach api'
status=0 && on batch 'curl -sS --max-time 1 http://[fd00:77::4]:8080/' || status=$?
expect $((status != 28)) 'nor over IPv6'

step 'A proxy on the node, and a policy that hands it what chat sends to 203.0.113.0/24 port 443'
printf '   %snode $%s penstock-relay --listen 15001 &\n' "$blue" "$plain"
start node "$dir/relay.log" penstock-relay --listen 15001
wait_for 5 penstock-relay eval 'within node ss -ltnH | grep -q :15001'
on node "curl -sS --unix-socket $socket -X PATCH http://penstock/v1/state -H 'Content-Type: application/json' -d @intercept.json" || true
says '"revision"' 'enforced'
on chat 'curl -sS --max-time 3 --local-port 40000-40099 http://203.0.113.9:443/' || true
says 'hello from provider, you are 198.51.100.1' 'the provider answered, and saw the node: the proxy carried it'
wait_for 5 "the proxy's log line" grep -q 203.0.113.9 $dir/relay.log # written when the connection has ended
on node "cat $dir/relay.log" || true
if [[ $said =~ 10\.77\.0\.2:400[0-9][0-9]\ .*203\.0\.113\.9:443 ]]; then
	good "the proxy saw both addresses as they were: ${BASH_REMATCH[0]}"
else
	bad 'the proxy did not see 10.77.0.2:400xx and 203.0.113.9:443'
fi
on batch 'curl -sS --max-time 2 http://203.0.113.9:443/' || true
says 'hello from provider, you are 10.77.0.3' 'batch is not selected: it goes straight there, from its own address'

step 'The metrics that count them'
on node "curl -sS http://127.0.0.1:7642/metrics | grep -E '^penstock_(packets_total.*(Policy|Isolated|Intercept)|rule_hits|intercepted|revision)' | grep -v ' 0$'" || true
says 'reason="Policy"' 'the allowed packets'
says 'reason="Isolated"' 'the dropped ones, with the isolation as the reason'
says 'penstock_intercepted_connections_total{' 'the connection that was handed over'

if [ $missed = 0 ]; then
	printf '\n%sAll as it should be.%s\n' "$green" "$plain"
else
	printf '\n%s%d expectations were not met.%s\n' "$red" $missed "$plain"
	tail -n 30 $dir/penstockd.log | show
fi
exit $missed
