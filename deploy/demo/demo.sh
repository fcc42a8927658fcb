#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `make demo`: penstock's main job on real packets, on one machine and in namespaces of its own.
#
#     chat  ─┐
#     batch ─┼─ node (penstockd, the AI gateway) ─── an LLM provider outside, 203.0.113.9 and 2001:db8:113::9
#     api   ─┘
#
# All calls of chat to the LLM provider go through the gateway, the rest follows NetworkPolicy, no app is changed. The gateway
# is penstock-relay, or HAProxy with GATEWAY=haproxy.
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
gateway=${GATEWAY:-relay}
gateways=0
host=api.llm.example

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

gateway_start() { # a log of its own for each
	local command='penstock-relay --listen 15001 --source client'
	[ "$gateway" = relay ] || command='haproxy -db -f haproxy.cfg'
	printf '   %snode $%s %s &\n' "$blue" "$plain" "$command"
	gateway_log=$dir/gateway-$((++gateways)).log
	# shellcheck disable=SC2086
	start node "$gateway_log" $command
	gateway_pid=$!
	wait_for 5 'the gateway' gateway_listens
}
# shellcheck disable=SC2317  # called by wait_for
gateway_listens() { [ -n "$(within node ss -ltnH 'sport = :15001')" ]; }
# shellcheck disable=SC2317
gateway_seen() { [[ $(within node curl -sS http://127.0.0.1:7642/metrics) == *'penstock_proxy_up{proxy="ai-gateway"} 1'* ]]; }
# shellcheck disable=SC2317
alert_told() { [[ $(within node penstock --socket "$socket" alerts) == *ProxyDown* ]]; }
gateway_carried() { [ "$(grep -c "$host" "$gateway_log")" -ge "$1" ]; } # lines are written when connections end

# ask SPACE FAMILY [SECONDS]: a call to the provider, as any app would make it.
ask() {
	local address=203.0.113.9
	[ "$2" = 4 ] || address='[2001:db8:113::9]'
	on "$1" "curl -sS --max-time ${3:-3} --cacert $dir/ca.pem --resolve $host:443:$address https://$host/"
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
case $gateway in
relay | haproxy) ;;
*) echo "demo: GATEWAY=$gateway is neither relay nor haproxy" >&2 && exit 1 ;;
esac
for program in penstockd penstock penstock-relay; do
	[ -x "$build/$program" ] || { echo "demo: $build/$program is missing: run make first" >&2 && exit 1; }
done
exec 9>/run/penstock-demo.lock
flock -n 9 || { echo 'demo: another one is running' >&2 && exit 1; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- the story ----

step 'A node, two client pods, a server pod, an LLM provider outside: network namespaces'
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
link set uplink addrgenmode none
addr add fe80::51:1/64 dev uplink nodad
link set uplink up
addr add 198.51.100.1/24 dev uplink
addr add 2001:db8:51::1/64 dev uplink nodad
route add default via 198.51.100.9
route add default via 2001:db8:51::9
END
ip -n penstock-demo-provider -batch - <<END
link set eth0 addrgenmode none
addr add fe80::51:9/64 dev eth0 nodad
link set eth0 up
addr add 198.51.100.9/24 dev eth0
addr add 2001:db8:51::9/64 dev eth0 nodad
addr add 203.0.113.9/32 dev lo
addr add 2001:db8:113::9/128 dev lo nodad
route add default via 198.51.100.1
route add default via 2001:db8:51::1
END
pod chat 10.77.0.2 fd00:77::2
pod batch 10.77.0.3 fd00:77::3
pod api 10.77.0.4 fd00:77::4
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=$host" \
	-addext "subjectAltName=DNS:$host" -keyout $dir/key.pem -out $dir/ca.pem 2>/dev/null
start api "$dir/api.log" ./serve.py api 8080
start provider "$dir/provider.log" ./serve.py "$host" 443 $dir/ca.pem $dir/key.pem
wait_for 5 'the server pod' within api curl -sf http://127.0.0.1:8080/
wait_for 5 'the provider' within provider curl -sfk https://127.0.0.1/
note "chat 10.77.0.2    batch 10.77.0.3    api 10.77.0.4:8080    $host 203.0.113.9:443, beyond the uplink"

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
ask chat 4 || true
says "hello from $host, you are 10.77.0.2" 'no policy yet: chat reaches the provider directly'

step 'A gateway on the node, and a policy: what chat sends to the provider goes through it'
[ "$gateway" = relay ] || show <haproxy.cfg
gateway_start
on node "curl -sS --unix-socket $socket -X PATCH http://penstock/v1/state -H 'Content-Type: application/json' -d @intercept.json" || true
says '"revision"' 'enforced'
ask chat 4 || true
says "hello from $host, you are 10.77.0.2" 'the same call, no app changed; the provider still sees the pod'
ask chat 6 || true
says "hello from $host, you are fd00:77::2" 'and over IPv6'
wait_for 5 "the gateway's lines" gateway_carried 2
on node "grep $host $gateway_log" || true
says '-> 203.0.113.9:443' 'the gateway carried them, knew where they were going, and reads the name of the TLS handshake'
if [[ $said =~ 10\.77\.0\.2:[0-9]+\ -\>\ 203\.0\.113\.9:443 ]]; then
	good "both addresses as they were: ${BASH_REMATCH[0]}"
else
	bad 'the gateway did not see 10.77.0.2 and 203.0.113.9:443'
fi
ask batch 4 || true
says "you are 10.77.0.3" 'batch is not selected: it goes straight there'
if gateway_carried 3; then bad 'the gateway carried it'; else good 'the gateway knows nothing of it'; fi

step 'Ask why: the answer is read from the tables in the kernel'
on node "penstock --socket $socket explain shop/chat 203.0.113.9 --port 443" || true
says 'ai-gateway' 'the proxy, and the rule that chose it'

step 'Everything else follows NetworkPolicy: only chat may reach api, batch may not go out at all'
on node "curl -sS --unix-socket $socket -X PATCH http://penstock/v1/state -H 'Content-Type: application/json' -d @policy.json" || true
says '"revision"' 'enforced'
on chat 'curl -sS --max-time 2 http://10.77.0.4:8080/' || true
says 'hello from api, you are 10.77.0.2' 'chat reaches api'
on chat 'curl -sS --max-time 2 http://[fd00:77::4]:8080/' || true
says 'hello from api, you are fd00:77::2' 'and over IPv6'
status=0 && on batch 'curl -sS --max-time 1 http://10.77.0.4:8080/' || status=$?
expect $((status != 28)) 'batch does not reach api: dropped, there is no answer at all'
status=0 && ask batch 4 1 || status=$?
expect $((status != 28)) 'nor the provider'

step 'The gateway dies. Deny: nothing goes past it'
{ kill -KILL $gateway_pid && wait $gateway_pid; } 2>/dev/null || true
wait_for 5 'the end of the gateway' eval '! gateway_listens'
status=0 && ask chat 4 1 || status=$?
expect $((status != 28)) 'chat does not reach the provider unseen'
on node "curl -sS http://127.0.0.1:7642/metrics | grep -E '^penstock_(packets_total.*NoListener|proxy_up)' | grep -v 'total.* 0$'" || true
says 'reason="NoListener"' 'and that is counted by its own reason'
wait_for 5 'the alert' alert_told
on node "penstock --socket $socket alerts" || true
says 'ProxyDown' 'and an alert was raised'

step 'Bypass instead: connections go where they were going while there is no gateway'
on node "curl -sS --unix-socket $socket -X PATCH http://penstock/v1/state -H 'Content-Type: application/json' -d @bypass.json" || true
says '"revision"' 'enforced'
ask chat 4 || true
says "hello from $host, you are 10.77.0.2" 'chat reaches the provider directly'
gateway_start
wait_for 2 'the gateway' gateway_seen # the agent looks every 100 ms who listens
ask chat 4 || true
says "hello from $host, you are 10.77.0.2" 'a new gateway'
wait_for 5 "the gateway's line" gateway_carried 1
on node "grep $host $gateway_log" || true
says '203.0.113.9:443' 'has connections within a second'

step 'See it: every connection with the rule that decided, how the agent is, metrics'
on node "penstock --socket $socket flows --tail 12" || true
says 'Intercepted  ' 'what the gateway got'
says 'Refused' 'what was refused'
on node "penstock --socket $socket status" || true
says 'ai-gateway' 'the gateway and its listeners'
on node "curl -sS http://127.0.0.1:7642/metrics | grep -E '^penstock_(packets_total.*(Policy|Isolated|Intercept)|rule_hits|intercepted|onward|proxy_up|revision)' | grep -v ' 0$'" || true
says 'reason="Policy"' 'the allowed packets'
says 'reason="Isolated"' 'the dropped ones, with the isolation as the reason'
says 'penstock_intercepted_connections_total{' 'the connections that were handed over'
says 'penstock_onward_connections_total{source="client"}' "and that the gateway went on with the clients' own addresses"
note 'while an agent runs: penstock flows --follow, penstock top, and the page http://127.0.0.1:7642/ui/'

if [ $missed = 0 ]; then
	printf '\n%sAll as it should be.%s\n' "$green" "$plain"
else
	printf '\n%s%d expectations were not met.%s\n' "$red" $missed "$plain"
	tail -n 30 $dir/penstockd.log | show
fi
exit $missed
