# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, about a real agent and real traffic. Its pictures are in $PENSTOCK_BUILD/ui."""
import contextlib
import os
import time

import pytest

from browser import Browser, program
from lab import BUILD, OUTSIDE4, Lab, OUTSIDE6
from objects import allow_from, allow_to, audited, cluster_policy, intercept, namespace, policy, proxy, workload
from scenes import eventually
from talk import Client, Server

ADDRESS = "http://127.0.0.1:7642/ui/"
PICTURES = os.path.join(BUILD, "ui")
SIZES = {"wide": (1600, 1000), "narrow": (400, 850)}
PODS = {"web": "shop", "api": "shop", "db": "shop", "chat": "shop", "idle": "shop", "prometheus": "ops"}
PROVIDERS = {"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}


def tcp(port):
    return [{"protocol": "TCP", "port": port}]


def allow_in(name, source, port):
    return allow_from("shop", f"{name}-in", {"app": name}, [{"podSelector": {"matchLabels": {"app": source}}}], tcp(port))


def pods(*names):
    return {"pods": {"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": list(names)}]}}}


POLICIES = [
    allow_in("api", "web", 8080), allow_in("db", "api", 5432),
    allow_to("ops", "nobody-here", {"app": "absent"}, [{"ipBlock": {"cidr": "192.0.2.0/24"}}], tcp(53)),
    audited(policy("ops", "strict", {"app": "prometheus"}, egress=[], types=["Egress"])),
    cluster_policy("no-ssh", "Admin", 10, pods("web", "chat", "prometheus"), egress=[
        {"name": "ssh", "action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}],
         "protocols": [{"tcp": {"destinationPort": {"number": 22}}}]}]),
    proxy("ai-gateway", 15001), proxy("mesh-out", 15006, unavailable="Bypass"),
    intercept("llm-egress", {"app": "chat"}, [{"name": "providers", "action": "Intercept", "proxy": "ai-gateway", "to": [PROVIDERS],
                                               "protocols": [{"tcp": {"destinationPort": {"number": 443}}}]}]),
]
BROKEN = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "cart-egress"},
          "spec": {"podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Egress"],
                   "egress": [{"ports": [{"protocol": "TCP", "port": 70000}]}]}}


class Shop(Lab):
    """A node with an agent that knows of nothing yet, pods with servers, a proxy, and a browser in its namespace."""

    def __init__(self):
        super().__init__(outside=True)
        for name in PODS:
            setattr(self, name, self.pod(name))
        self.servers = [Server(self.api_pod, 8080, "api"), Server(self.db, 5432, "db"), Server(self.outside, 443, "outside"),
                        Server(self.outside, 80, "outside"), Server(self.node, 15001, "ai-gateway", transparent=True)]
        self.running = self.agent(metrics={"listen": "127.0.0.1:7642"})
        self.browser = Browser(self.node)

    @property
    def api_pod(self):
        return self.pods["api"]

    def tell(self):
        members = [workload(space, name, self.pods[name].ips, {"app": name}, interface=self.pods[name].interface)
                   for name, space in PODS.items()]
        pending = workload("shop", "mailer-0", ["10.77.9.9"], {"app": "mailer"}, interface="not-there")
        api = self.running.api
        api.put_state([namespace("shop"), namespace("ops"), *members, pending, *POLICIES])
        api.patch([BROKEN], invalid="quarantine")
        eventually(lambda: next(p for p in api.status()["proxies"] if p["name"] == "ai-gateway")["up"])

    def talk(self, source, ip, port):
        with contextlib.suppress(OSError):
            client = Client(self.pods[source], ip, port, timeout=0.15)
            client.hello(last=True)
            client.sock.close()
            return True
        return False

    def traffic(self):
        assert self.talk("web", self.api_pod.ip4, 8080) and self.talk("web", self.api_pod.ip6, 8080)
        assert self.talk("api", self.db.ip4, 5432) and self.talk("chat", OUTSIDE4, 443)
        assert self.talk("prometheus", OUTSIDE4, 80)
        assert not self.talk("web", self.db.ip4, 5432) and not self.talk("chat", OUTSIDE4, 22)

    def close(self):
        if hasattr(self, "browser"):
            self.browser.close()
        for server in self.servers:
            server.close()
        super().close()


@pytest.fixture(scope="module")
def shop():
    if not program():
        pytest.skip("chromium-headless-shell is not installed")
    with Shop() as made:
        yield made


@pytest.fixture(scope="module")
def empty(shop):
    """What the page says about a node that knows of nothing: what is asked of it stands in a dict, as it does not stay so."""
    page = shop.browser.page(ADDRESS, *SIZES["wide"])
    page.wait("document.getElementById('state').textContent.includes('enforcing')")
    page.wait("!document.getElementById('policies-empty').hidden")
    said = {name: page.value(f"document.getElementById('{name}-empty').innerText") for name in ("map", "flows", "policies", "proxies")}
    said["attention"] = page.value("document.getElementById('attention').innerText")
    pictures(page, "empty")
    said["complaints"] = list(page.complaints)
    page.close()
    return said


@pytest.fixture(scope="module")
def page(shop, empty):
    shop.tell()
    page = shop.browser.page(ADDRESS, *SIZES["wide"])
    shop.traffic()
    page.wait("document.querySelectorAll('#flows-rows tr').length >= 7")
    yield page
    page.close()


@pytest.fixture(autouse=True)
def quiet(request):
    """The console has nothing to say: no exception, no violation of the content security policy, nothing that failed."""
    yield
    if "page" in request.fixturenames:
        assert request.getfixturevalue("page").complaints == []


def pictures(page, name):
    for size, (width, height) in SIZES.items():
        for dark in (False, True):
            page.size(width, height)
            page.media(dark, still=True)
            page.screenshot(f"{PICTURES}/{name}-{size}-{'dark' if dark else 'light'}.png")
    page.size(*SIZES["wide"])
    page.media()


def edges(page):
    return {tuple(one) for one in page.value(
        "[...document.querySelectorAll('.flow')].map((e) => [e.dataset.from, e.dataset.to, e.dataset.verdict])")}


def hits(page, name):
    rows = f"[...document.querySelectorAll('tr[data-policy=\"{name}\"] .hits')].map((e) => Number(e.textContent) || 0)"
    return sum(page.value(rows))


def rows(page):
    return page.value("[...document.querySelectorAll('#flows-rows tr:not(.more)')].map((e) => [e.dataset.from, e.dataset.to, e.className.split(' ')[0]])")


# ---- what it shows ----

def test_an_empty_node_says_what_to_do_next(empty):
    assert "penstock apply" in empty["policies"] and "penstock apply" in empty["map"] and "penstock apply" in empty["proxies"]
    assert "penstock flows" in empty["flows"] and "Nothing" in empty["attention"]
    assert empty["complaints"] == []


def test_the_map_shows_who_talks_to_whom(page):
    wanted = {("shop/web", "shop/api", "Forwarded"), ("shop/api", "shop/db", "Forwarded"), ("shop/web", "shop/db", "Dropped"),
              ("shop/chat", "ai-gateway", "Intercepted"), ("ai-gateway", OUTSIDE4, "Intercepted"),
              ("shop/chat", OUTSIDE4, "Dropped"), ("ops/prometheus", OUTSIDE4, "Audited")}
    eventually(lambda: wanted <= edges(page))
    nodes = page.value("[...document.querySelectorAll('.node')].map((e) => e.dataset.name)")
    assert sorted(nodes) == sorted(set(nodes)) and set(nodes) >= {end for edge in wanted for end in edge[:2]}
    lanes = page.value("[...document.querySelectorAll('.lane .title')].map((e) => e.textContent)")
    assert lanes == ["ops", "shop", "proxies"]
    assert "idle" in page.value("document.querySelector('#map-svg').textContent")
    labels = page.value("[...document.querySelectorAll('g.label')].map((e) => e.textContent)")
    assert {"5432", "✕ 22", "◆ 443", "? 80"} <= set(labels) and sum("✕" in one for one in labels) >= 2


def test_verdicts_are_counted_and_drawn(page):
    totals = page.value("Object.fromEntries([...document.querySelectorAll('#legend li')].map((e) => "
                        "[e.className, Number(e.querySelector('.total').textContent)]))")
    assert totals["Forwarded"] >= 3 and totals["Intercepted"] >= 1 and totals["Dropped"] >= 2 and totals["Audited"] >= 1
    for name in ("Forwarded", "Intercepted", "Dropped", "Audited"):
        assert page.value(f"document.querySelector('#chart-svg .bar.{name}').getAttribute('d').length") > 0


def test_hits_of_policies_rise(shop, page):
    before = hits(page, "db-in")
    shop.talk("api", shop.db.ip4, 5432)
    eventually(lambda: hits(page, "db-in") > before)
    assert "selects no workload" in page.value("document.getElementById('policies-rows').innerText")
    assert page.value("document.querySelector('#policies-rows .badge').innerText").endswith("audit")
    page.click("#unused")
    eventually(lambda: "nobody-here" in page.value("document.getElementById('policies-rows').innerText"))
    assert "db-in" not in page.value("document.getElementById('policies-rows').innerText")
    page.click("#unused")


def test_what_needs_attention_is_shown(page):
    text = page.value("document.getElementById('attention').innerText")
    assert "cart-egress is in quarantine" in text and "/spec/egress/0/ports/0/port" in text and "70000" in text
    assert "mesh-out is down" in text and "mailer-0" in text and "ProxyDown" not in text
    assert "quarantine" in page.value("[...document.querySelectorAll('#policies-rows tr')].find((e) => e.innerText.includes('cart-egress')).innerText")


def test_proxies_and_their_listeners_are_shown(page):
    text = page.value("document.querySelector('#proxies-list li[data-name=ai-gateway]').innerText")
    assert "up" in text and "15001" in text and "python" in text
    assert "down" in page.value("document.querySelector('#proxies-list li[data-name=mesh-out]').innerText")


def test_a_refused_connection_appears_without_reload(shop, page):
    page.value("window.mark = 1")
    assert ["shop/prometheus", "shop/db", "Dropped"] not in rows(page)
    begun = time.monotonic()
    shop.talk("prometheus", shop.db.ip4, 5432)
    page.wait("document.querySelector('#flows-rows tr[data-from=\"ops/prometheus\"][data-to=\"shop/db\"].Dropped') !== null", 5)
    assert time.monotonic() - begun < 5  # 0.3 s on a machine with nothing else to do
    assert page.value("window.mark") == 1


def test_the_filter_and_clicks_on_the_map(page):
    every = len(rows(page))
    page.click("#filter")
    page.call("Input.insertText", text="verdict:dropped to:shop/db")
    assert {row[2] for row in rows(page)} == {"Dropped"} and {row[1] for row in rows(page)} == {"shop/db"}
    page.key("Escape")
    assert len(rows(page)) >= every and page.value("document.getElementById('filter').value") == ""
    page.click(".node[data-name='ai-gateway']")
    assert page.value("document.getElementById('filter').value") == "proxy:ai-gateway"
    assert {row[2] for row in rows(page)} == {"Intercepted"}
    page.click("#flows-rows tr")
    details = page.value("document.querySelector('#flows-rows .more').innerText")
    assert "penstock explain shop/chat" in details and "llm-egress: providers" in details
    page.click(".node[data-name='ai-gateway']")
    assert page.value("document.getElementById('filter').value") == ""


def test_it_is_reached_by_keyboard(page):
    page.value("document.body.tabIndex = -1; document.body.focus(); scrollTo(0, 0)")
    seen = []
    for _ in range(12):
        page.key("Tab")
        seen.append(page.value("document.activeElement.id || document.activeElement.className"))
    assert [one for one in seen if one in ("skip", "map-scroll", "filter", "pause", "flows-scroll", "unused", "policies-scroll")][:7] == [
        "skip", "map-scroll", "filter", "pause", "flows-scroll", "unused", "policies-scroll"]
    page.value("document.getElementById('map-scroll').focus()")
    page.key("ArrowDown")
    assert page.value("document.activeElement.getAttribute('class')").startswith("node")
    page.key("ArrowDown")
    said = page.value("document.activeElement.getAttribute('aria-label')")
    assert "connection" in said and "a second" in said
    page.key("Enter")
    assert page.value("document.getElementById('filter').value").startswith("from:")
    page.key("Escape")
    page.value("document.getElementById('flows-scroll').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.key(key)
    assert page.value("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.key("Enter")


# ---- how it looks ----

CONTRAST = """(() => {
const part = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const colour = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (e) => { for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3]) return c; } };
return [...document.querySelectorAll('h1, h2, p, dt, dd, td, th, li, small, code, button, .name, .address, .badge, .pill, .legend b')]
	.filter((e) => e.offsetParent && e.textContent.trim() && !e.closest('.new')).map((e) => {
		const [a, b] = [light(colour(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
		return [(a + 0.05) / (b + 0.05), e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 30)]; })
	.filter(([ratio]) => ratio < 4.5);
})()"""

OVERLAPS = """(() => {
const boxes = [...document.querySelectorAll('.node, g.label')].map((e) => [e.querySelector('rect').getBoundingClientRect(), e.textContent]);
return boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([b]) =>
	a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1).map(([, y]) => x + ' | ' + y));
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark_are_legible(page, dark):
    page.media(dark, still=True)
    ground = page.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(ground) < 60 if dark else min(ground) > 200
    assert page.value(CONTRAST) == []
    page.media()


@pytest.mark.parametrize("width", [320, 400, 768, 1000, 1280, 1600])
def test_it_fits(page, width):
    page.size(width, 900)
    page.media(still=True)
    page.value("new Promise((done) => setTimeout(done, 150))")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(OVERLAPS) == []
    out = page.value("[...document.querySelectorAll('.node text, .lane text')].filter((e) => { const t = e.getBoundingClientRect(),"
                     "s = e.ownerSVGElement.getBoundingClientRect(); return t.left < s.left || t.right > s.right + 1; }).map((e) => e.textContent)")
    assert out == []
    page.size(*SIZES["wide"])
    page.media()


def test_pictures(shop, page):
    for _ in range(3):
        shop.traffic()
    pictures(page, "busy")
    assert len(os.listdir(PICTURES)) >= 8


# ---- when the agent goes ----

def test_it_says_that_the_agent_is_gone_and_recovers(shop, page):
    try:
        shop.running.stop()
        page.wait("!document.getElementById('banner').hidden")
        assert "does not answer" in page.value("document.getElementById('banner').innerText")
        kept = len(rows(page))
        page.size(*SIZES["wide"])
        page.screenshot(f"{PICTURES}/gone-wide-light.png", whole=False)
        shop.running.start()
        page.wait("document.getElementById('banner').hidden", 20)
        assert kept and len(rows(page)) >= kept
        before = page.value("document.querySelectorAll('#flows-rows tr[data-to=\"shop/api\"]').length")
        eventually(lambda: shop.talk("web", shop.api_pod.ip4, 8080) and
                   page.value("document.querySelectorAll('#flows-rows tr[data-to=\"shop/api\"]').length") > before, 20)
    finally:
        # The browser says of each attempt that nobody answered.
        page.complaints[:] = [one for one in page.complaints if "ERR_CONNECTION" not in one and "ERR_INCOMPLETE" not in one
                              and "ERR_EMPTY_RESPONSE" not in one]
