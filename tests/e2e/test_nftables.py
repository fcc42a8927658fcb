# SPDX-License-Identifier: Apache-2.0
"""Interception of addresses that kube-proxy translates: the table that keeps them, and what becomes of it."""
import signal
import subprocess
import time

import pytest

from kubeproxy import MODES, KubeProxy, endpoint_slice, service
from lab import ALLOW, Probe
from objects import intercept, proxy
from scenes import eventually, member, serve
from steering import Load
from talk import Server, ask
from test_listeners import FOUR, contained

PROXY_PORT = 15001
VIP = {4: "10.96.0.10", 6: "fd00:96::a"}
TABLE = ("list", "table", "inet", "penstock")
NAT = "table inet foreign { chain c { type nat hook prerouting priority -101; ip daddr 192.0.2.1 dnat ip to 192.0.2.2; }\n}\n"


@pytest.fixture(params=[*MODES, "iptables-legacy"])
def cluster(lab, request):
    """a's connections to the Service go to a proxy; without interception they go to b."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    serve(lab, lab.b, ports=(8080,))
    lab.kube = KubeProxy(lab.node, request.param)
    if why := lab.kube.lacking():
        pytest.skip(f"kube-proxy's {request.param} mode cannot be had here: {why}")
    lab.kube.sync(web(lab))
    begin(lab)
    return lab


def web(lab):
    return [service("web", list(VIP.values()), [{"port": 80, "targetPort": 8080}]),
            *[endpoint_slice("web", [ip], [{"port": 8080}]) for ip in lab.b.ips]]


def begin(lab, agent=None):
    lab.running = agent or lab.agent()
    lab.items = [member(name, pod, interface=pod.interface) for name, pod in lab.pods.items()]
    lab.handed = [proxy("gw", PROXY_PORT), intercept("web", {"name": "a"}, [
        {"name": "web", "action": "Intercept", "proxy": "gw", "protocols": [{"tcp": {"destinationPort": {"number": 80}}}],
         "to": [{"networks": [f"{VIP[4]}/32", f"{VIP[6]}/128"]}]}])]
    lab.prober.listen(lab.node, PROXY_PORT, transparent=True)


def answers(lab, source):
    """By family: which address answers a connection to the Service, as it sees itself; None: nobody."""
    probes = lab.prober.probe([Probe(source, VIP[family], 80, expect=ALLOW) for family in (4, 6)])
    return [(probe.peer[2].removeprefix("::ffff:"), probe.peer[3]) if probe.ok else None for probe in probes]


def nft(lab, *command, **options):
    return lab.node.run("nft", *command, **options).stdout


def backend(lab):
    return [(lab.b.ip4, 8080), (lab.b.ip6, 8080)]


PROXY = [(VIP[4], 80), (VIP[6], 80)]


def test_the_proxy_is_reached_at_the_services_address(cluster):
    lab = cluster
    lab.running.api.put_state(lab.items)
    assert answers(lab, lab.a) == backend(lab)
    assert "penstock" not in nft(lab, "list", "tables"), "no table before the first proxy"
    lab.running.api.put_state(lab.items + lab.handed)
    assert answers(lab, lab.a) == PROXY
    assert answers(lab, lab.b) == backend(lab), "whom no rule selects"
    assert lab.running.api.metrics()("penstock_intercepted_connections_total", proxy="gw") == 2
    engine(lab, "tproxy")
    lab.running.signal(signal.SIGHUP)
    eventually(lambda: lab.running.api.status()["engine"]["active"] == "tproxy")
    assert answers(lab, lab.a) == PROXY and answers(lab, lab.b) == backend(lab)
    engine(lab, "ebpf")

    lab.running.kill9()
    assert answers(lab, lab.a) == PROXY, "it stays without an agent"
    nft(lab, "delete", "table", "inet", "penstock")
    assert not set(PROXY) & set(answers(lab, lab.a)), "it is this table that does it"
    lab.running.start()
    assert answers(lab, lab.a) == PROXY
    lab.running.api.delete_object("InterceptPolicy", "", "web")
    assert answers(lab, lab.a) == backend(lab)


@pytest.fixture
def node(lab):
    """The same without kube-proxy, and a table of somebody else's."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    begin(lab)
    lab.node.run("nft", "-f", "-", input=NAT)
    lab.running.api.put_state(lab.items + lab.handed)
    return lab


def engine(lab, name):
    """From the next start, or SIGHUP, on."""
    lab.running.config["datapath"]["engine"] = name
    lab.running.write_config()


def table(lab):
    return nft(lab, *TABLE, check=False)


def test_what_others_do_to_it_is_mended_at_once(node):
    lab = node
    made, foreign = table(lab), nft(lab, "list", "table", "inet", "foreign")
    assert made.count("0x60000000 == 0x20000000 dnat") == 2 and answers(lab, lab.a) == PROXY
    handle = nft(lab, "-a", *TABLE).split("ip6 daddr # handle ")[1].split()[0]
    for damage in ("delete table inet penstock", "flush table inet penstock", "flush map inet penstock wildcard",
                   "delete element inet penstock loopback { 7641:3a99 }", "flush chain inet penstock handover", "delete chain inet penstock intercepted",
                   f"delete rule inet penstock intercepted handle {handle}", "insert rule inet penstock intercepted return",
                   "add chain inet penstock more { type filter hook forward priority 0; policy drop; }"):
        if damage.startswith("delete rule"):
            handle = nft(lab, "-a", *TABLE).split("ip6 daddr # handle ")[1].split()[0]
            damage = f"delete rule inet penstock intercepted handle {handle}"
        if damage.startswith("delete chain"):
            damage = f"flush chain inet penstock intercepted; {damage}"
        nft(lab, *damage.split())
        eventually(lambda: table(lab) == made, 1)
        assert answers(lab, lab.a) == PROXY, damage
    assert nft(lab, "list", "table", "inet", "foreign") == foreign
    nft(lab, "flush", "ruleset")
    eventually(lambda: table(lab) == made, 1)
    assert answers(lab, lab.a) == PROXY


def test_what_was_done_to_it_without_an_agent(node):
    lab = node
    made = table(lab)
    lab.running.stop()
    nft(lab, "flush", "table", "inet", "penstock")
    lab.running.start()
    assert table(lab) == made


def test_others_may_do_what_they_want_with_theirs(node):
    """kube-proxy's hundreds of changes do not make ours anew."""
    lab = node
    before = nft(lab, "-a", *TABLE)
    lines = ["add table ip other", "delete table ip other", "add table ip other",
             *[f"add chain ip other c{n}" for n in range(50)], *[f"add rule ip other c{n} accept" for n in range(50)], ""]
    for _ in range(20):
        lab.node.run("nft", "-f", "-", input="\n".join(lines))
    time.sleep(0.2)
    assert nft(lab, "-a", *TABLE) == before and "somebody changed" not in lab.running.log


def test_another_mask(node):
    lab = node
    lab.running.stop()
    lab.running.config["datapath"]["markMask"] = "0x00c00000"
    lab.running.write_config()
    lab.running.start()
    assert table(lab).count("0x00c00000 == 0x00400000 dnat") == 2 and "0x6000" not in table(lab)
    assert answers(lab, lab.a) == PROXY


def test_never_a_moment_without_it(cluster):
    """Connections without a pause while the agent is killed, started and made to make the table anew."""
    lab = cluster
    lab.running.api.put_state(lab.items + lab.handed)
    lab.prober.close_listeners()
    servers = [Server(lab.node, PROXY_PORT, "proxy", transparent=True), Server(lab.b, 8080, "b")]

    def attempt():
        who = ask(lab.a, VIP[4], timeout=3)
        return isinstance(who, dict) and (who["server"], who["local"]) == ("proxy", [VIP[4], 80]) or who
    eventually(lambda: attempt() is True)
    load = Load(attempt)
    try:
        for name in ("ebpf", "tproxy", "tproxy", "ebpf", "auto"):
            load.grown(50)
            lab.running.kill9()
            engine(lab, name)
            lab.running.start()
        load.grown(50)
    finally:
        seen = load.end()
        for server in servers:
            server.close()
    assert [one for one in seen if one is not True] == [], f"of {len(seen)}"


def test_uninstall_takes_it_away_and_nothing_else(node):
    lab = node
    foreign = nft(lab, "list", "table", "inet", "foreign")
    lab.running.stop()
    lab.running.uninstall()
    assert nft(lab, "list", "ruleset") == foreign
    lab.running.uninstall()


def test_without_nftables_interception_goes_on(lab):
    """A table of our name that belongs to a living process: nobody else may touch it."""
    owner = lab.node.popen("nft", "-i", stdin=subprocess.PIPE, text=True)
    try:
        owner.stdin.write("add table inet penstock { flags owner; }\n")
        owner.stdin.flush()
        eventually(lambda: "owner" in table(lab))
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        begin(lab)
        lab.running.api.put_state(lab.items + lab.handed)
        assert answers(lab, lab.a) == PROXY, "nobody translates here"
        assert lab.running.log.count("reach no proxy: nftables: ") == 1
        assert "dnat" not in table(lab)
        lab.running.stop()
        done = lab.running.uninstall(check=False)
        assert done.returncode != 0 and "nftables" in done.stderr, done
        lab.running.start()
    finally:
        owner.stdin.close()
        owner.wait()
    eventually(lambda: "owner" not in table(lab))
    lab.node.run("nft", "-f", "-", input=NAT)
    lab.running.restart()
    assert table(lab).count(" dnat ip") == 2


def test_net_admin_is_enough(lab):
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    begin(lab, contained(lab, FOUR))
    lab.node.run("nft", "-f", "-", input=NAT)
    lab.running.api.put_state(lab.items + lab.handed)
    assert table(lab).count(" dnat ip") == 2
    nft(lab, "delete", "table", "inet", "penstock")
    eventually(lambda: table(lab).count(" dnat ip") == 2, 1)
    lab.running.stop()


def test_check_says_whether_it_is_there(node):
    lab = node

    def said():
        out = lab.node.run(lab.running.binary, "--config", lab.running.config_path, "--check").stdout
        return next(line for line in out.splitlines() if "inet penstock" in line).split(": ", 1)[1]
    assert said() == "yes"
    lab.running.stop()
    lab.running.uninstall()
    assert said().startswith("no, ")


# ---- only where it is needed ----

@pytest.fixture
def alone(lab):
    """With a proxy; nobody translates addresses."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    serve(lab, lab.b, ports=(8080,))
    begin(lab)
    for harmless in ("table inet filters { chain c { type filter hook prerouting priority 0; }\n}",
                     "table ip masks { chain c { type nat hook postrouting priority 100; masquerade; }\n"
                     "chain d { type nat hook output priority -100; }\n}",
                     "table ip named { chain nat { }\nchain prerouting { }\n}"):
        lab.node.run("nft", "-f", "-", input=harmless + "\n")
    lab.running.api.put_state(lab.items + lab.handed)
    assert answers(lab, lab.a) == PROXY
    assert "penstock" in nft(lab, "list", "tables") and not stands(lab)
    return lab


def reasons(lab):
    return [line.split("is needed: ", 1)[1] for line in lab.running.log.splitlines() if "is needed: " in line]


def stands(lab):
    return table(lab).count(" dnat ip") == 2


@pytest.mark.parametrize("mode", MODES)
def test_it_comes_with_kube_proxy(alone, mode):
    lab = alone
    lab.kube = KubeProxy(lab.node, mode)
    if why := lab.kube.lacking():
        pytest.skip(f"kube-proxy's {mode} mode cannot be had here: {why}")
    lab.kube.sync(web(lab))
    eventually(lambda: stands(lab), 1)
    assert answers(lab, lab.a) == PROXY and answers(lab, lab.b) == backend(lab)
    assert len(reasons(lab)) == 1 and "of nftables translates addresses" in reasons(lab)[0], reasons(lab)


@pytest.mark.parametrize("chain", [
    "table inet penstock-like { chain c { type nat hook prerouting priority dstnat; }\n}",
    "table ip penstock { chain intercepted { type nat hook prerouting priority -101; }\n}",
    "table ip6 x { chain c { type nat hook prerouting priority 10; }\n}"])
def test_it_comes_with_anybodys_chain(alone, chain):
    lab = alone
    lab.node.run("nft", "-f", "-", input=chain + "\n")
    eventually(lambda: stands(lab), 1)
    nft(lab, "delete", *chain.split()[:3])
    lab.running.restart()
    assert stands(lab), "it stays: connections may live on it"
    assert len(reasons(lab)) == 2 and reasons(lab)[1] == "it was there before"
    lab.running.stop()
    lab.running.uninstall()
    lab.running.start()
    lab.running.api.put_state(lab.items)
    lab.running.api.put_state(lab.items + lab.handed)
    assert answers(lab, lab.a) == PROXY and not stands(lab)


def test_it_comes_after_a_storm_of_changes(alone):
    """More at once than the agent's socket has room for."""
    lab = alone
    lines = ["add table ip other", *[f"add chain ip other c{n}" for n in range(3000)],
             *[f"add rule ip other c{n} ip saddr 192.0.2.1 counter accept" for n in range(3000)],
             "add chain ip other nat { type nat hook prerouting priority 0; }", ""]
    lab.running.process.send_signal(signal.SIGSTOP)
    lab.node.run("nft", "-f", "-", input="\n".join(lines))
    lab.running.process.send_signal(signal.SIGCONT)
    eventually(lambda: stands(lab), 1)


def test_it_comes_with_services(alone):
    """Before the revision is live, whoever is to translate them."""
    lab = alone
    lab.running.api.put_state(lab.items + lab.handed + web(lab))
    assert stands(lab) and answers(lab, lab.a) == PROXY
    assert reasons(lab) == ["there are Services"]
    lab.running.api.put_state(lab.items + lab.handed)
    assert stands(lab)


@pytest.mark.parametrize("family", [4, 6])
def test_it_comes_with_the_next_write_after_iptables_legacy(alone, family):
    lab = alone
    if why := KubeProxy(lab.node, "iptables-legacy").lacking():
        pytest.skip(f"no iptables-legacy here: {why}")
    lab.node.run("ip6tables-legacy" if family == 6 else "iptables-legacy", "-t", "nat", "-S")
    gw = {**lab.handed[0], "spec": {**lab.handed[0]["spec"], "onUnavailable": "Bypass"}}
    lab.running.api.put_state([*lab.items, gw, lab.handed[1]])
    assert stands(lab) and reasons(lab) == ["iptables-legacy translates addresses"]


def test_it_comes_with_the_regular_look_after_iptables_legacy(alone):
    lab = alone
    lab.running.config["datapath"]["auditPeriod"] = "1s"
    lab.running.write_config()
    lab.running.restart()
    lab.kube = KubeProxy(lab.node, "iptables-legacy")
    if why := lab.kube.lacking():
        pytest.skip(f"no iptables-legacy here: {why}")
    lab.kube.sync(web(lab))
    eventually(lambda: stands(lab), 32)
    assert answers(lab, lab.a) == PROXY


def test_what_is_translated_at_output_concerns_processes(alone):
    """The `alone` node translates at output: no concern of workloads' connections."""
    lab = alone
    processes = intercept("own", {"cgroup": "penstock-nobody.slice"}, [{"name": "all", "action": "Intercept", "proxy": "gw",
                          "protocols": [{"tcp": {}}], "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}])
    lab.running.api.put_state([*lab.items, *lab.handed, processes])
    assert table(lab).count("dnat ip") == 4 and "chain rerouted" in table(lab)
    assert reasons(lab) == ["table masks of nftables translates addresses"]
