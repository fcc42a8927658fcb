# SPDX-License-Identifier: Apache-2.0
"""What CNIs, VPNs and firewalls put into a node's netfilter and policy routing: rules as theirs, their order and their mark
bits, for interfaces pv+ of pods and `uplink`.

    with Others(world.node, "iptables-nft") as others:
        others.calico()
"""
import os
import socket
import struct

from lab import OUTSIDE4, OUTSIDE6

NETLINK_NETFILTER = 12
TOOLS = ["iptables-nft", "iptables-legacy"]
TABLES = ("raw", "mangle", "nat", "filter")

# Felix: every packet from a pod passes an rpfilter that honours marks; what policy accepts has 0x10000, and FORWARD lets
# only that go.
CALICO = """*raw
:cali-PREROUTING -
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i pv+ -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*mangle
:cali-PREROUTING -
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*filter
:FORWARD DROP
:cali-FORWARD -
:cali-INPUT -
:cali-wl -
:cali-wl-to-host -
-A INPUT -j cali-INPUT
-A cali-INPUT -i pv+ -g cali-wl-to-host
-A cali-INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-wl-to-host -j cali-wl
-A cali-wl-to-host -j {to_host}
-A FORWARD -j cali-FORWARD
-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -i pv+ -j cali-wl
-A cali-FORWARD -o pv+ -j cali-wl
-A cali-wl -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-wl -m conntrack --ctstate INVALID -j DROP
-A cali-wl -j MARK --set-xmark 0x10000/0x10000
COMMIT
"""

# With iptables: a whole mark on what transparent sockets have, no tracking for what the proxy has, the node's own marked.
CILIUM = """*raw
:CILIUM_PRE_raw -
:CILIUM_OUTPUT_raw -
-A PREROUTING -j CILIUM_PRE_raw
-A OUTPUT -j CILIUM_OUTPUT_raw
-A CILIUM_PRE_raw -m mark --mark 0x200/0xf00 -j CT --notrack
-A CILIUM_OUTPUT_raw -m mark --mark 0xa00/0xfffffeff -j CT --notrack
COMMIT
*mangle
:CILIUM_PRE_mangle -
-A PREROUTING -j CILIUM_PRE_mangle
-A CILIUM_PRE_mangle ! -i lo -m socket --transparent -m mark ! --mark 0xe00/0xf00 -m mark ! --mark 0x800/0xf00 -j MARK --set-xmark 0x200/0xffffffff
COMMIT
*filter
:CILIUM_INPUT -
:CILIUM_OUTPUT -
-A INPUT -j CILIUM_INPUT
-A OUTPUT -j CILIUM_OUTPUT
-A CILIUM_INPUT -m mark --mark 0x200/0xf00 -j ACCEPT
-A CILIUM_OUTPUT -m mark ! --mark 0xe00/0xf00 -m mark ! --mark 0xd00/0xf00 -m mark ! --mark 0xa00/0xe00 -j MARK --set-xmark 0xc00/0xf00
COMMIT
"""

# A subnet router: what comes by the tunnel is marked and masqueraded; the mark of the daemon's own packets is kept.
TAILSCALE = """*mangle
-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000
-A OUTPUT -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000
COMMIT
*nat
:ts-postrouting -
-A POSTROUTING -j ts-postrouting
-A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
:ts-forward -
-A FORWARD -j ts-forward
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ts-forward -i uplink -j MARK --set-xmark 0x40000/0xff0000
-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
-A ts-forward -o uplink -j ACCEPT
COMMIT
"""

# wg-quick with a default route.
WG_QUICK = """*raw
-A PREROUTING ! -i uplink -d {address} -m addrtype ! --src-type LOCAL -j DROP
COMMIT
*mangle
-A POSTROUTING -p udp -m mark --mark 51820 -j CONNMARK --save-mark
-A PREROUTING -p udp -j CONNMARK --restore-mark
COMMIT
"""


def forget_connections(node):
    """What the kernel's connection tracking remembers there: a masqueraded flow stays so when the rule is gone."""
    request = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 0, 0, 0, 0, 0)  # nfnetlink: IPCTNL_MSG_CT_DELETE; request, ack
    with node.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(5)
        netlink.send(request)
        error, = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))


class Others:
    def __init__(self, node, tool="iptables-nft"):
        self.node, self.tool, self.undo = node, tool, []

    def tables(self, text, families=(4, 6), tool=None):
        """Rules for {ip,ip6}tables-restore, beside what is there."""
        tool = (tool or self.tool).split("-")[1]
        for family in families:
            program = f"{'ip' if family == 4 else 'ip6'}tables-{tool}"
            self.node.run(f"{program}-restore", "-n", "-w", "5", input=text)
            for table in TABLES:
                if f"*{table}\n" in text:
                    self.undo += [(program, "-t", table, "-F"), (program, "-t", table, "-X")]
            self.undo += [(program, "-P", chain, "ACCEPT") for chain in ("INPUT", "FORWARD") if f":{chain} DROP" in text]

    def nft(self, table):
        """`inet NAME { … }`"""
        self.node.run("nft", "-f", "-", input=f"table {table}\n")
        self.undo.append(("nft", "delete", "table", *table.split()[:2]))

    def rules(self, *lines):
        """Lines of `ip rule add`, both families."""
        for line in lines:
            for family in ("-4", "-6"):
                self.node.run("ip", family, "rule", "add", *line.split())
                self.undo.append(("ip", family, "rule", "del", *line.split()))

    def routes(self, *lines):
        """Of `ip route add`: (IPv4, IPv6)."""
        for pair in lines:
            for family, line in zip(("-4", "-6"), pair):
                self.node.run("ip", family, "route", "add", *line.split())
                self.undo.append(("ip", family, "route", "del", *line.split()))

    def sysctl(self, key, value):
        before = self.node.sysctl(key)
        self.node.sysctl(key, value)
        self.undo.append(lambda: self.node.sysctl(key, before))

    def hits(self, rule):
        """Packets that rules with this text had, both families."""
        saved = "".join(self.node.run(f"{family}tables-{self.tool.split('-')[1]}-save", "-c").stdout for family in ("ip", "ip6"))
        found = [int(line[1:].split(":")[0]) for line in saved.splitlines() if line.startswith("[") and rule in line]
        assert found, f"no such rule: {rule}\n{saved}"
        return sum(found)

    # ---- who ----

    def calico(self, to_host="ACCEPT"):
        self.tables(CALICO.format(to_host=to_host))

    def cilium(self):
        """Its rules are asked before the table of local addresses, which it moves."""
        self.rules("pref 9 fwmark 0x200/0xf00 lookup 2004", "pref 10 fwmark 0xa00/0xf00 lookup 2005", "pref 100 lookup local")
        for family in ("-4", "-6"):
            self.node.run("ip", family, "rule", "del", "pref", "0")
            self.undo.append(("ip", family, "rule", "add", "pref", "0", "lookup", "local"))
        self.routes(["local default dev lo table 2004"] * 2,
                    [f"default via {OUTSIDE4} dev uplink table 2005", f"default via {OUTSIDE6} dev uplink table 2005"])
        self.tables(CILIUM)

    def tailscale(self):
        self.rules("pref 5210 fwmark 0x80000/0xff0000 lookup main", "pref 5230 fwmark 0x80000/0xff0000 lookup default",
                   "pref 5250 fwmark 0x80000/0xff0000 unreachable", "pref 5270 lookup 52")
        self.routes(["throw 127.0.0.0/8 table 52", "throw ::1 table 52"])
        self.tables(TAILSCALE)

    def wg_quick(self):
        self.rules("pref 32764 not fwmark 51820 lookup 51820", "pref 32763 lookup main suppress_prefixlength 0")
        self.routes([f"default via {OUTSIDE4} dev uplink table 51820", f"default via {OUTSIDE6} dev uplink table 51820"])
        self.sysctl("net.ipv4.conf.all.src_valid_mark", 1)
        for family, address in ((4, "10.99.99.1"), (6, "fd00:9999::1")):
            self.tables(WG_QUICK.format(address=address), [family])

    def close(self):
        # Local addresses come back before anything is taken away.
        for step in reversed(self.undo):
            if callable(step):
                step()
            else:
                self.node.run(*step, check=False)
        self.undo = []
        forget_connections(self.node)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
