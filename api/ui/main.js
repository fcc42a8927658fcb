// SPDX-License-Identifier: Apache-2.0
// The page of one node: what is asked for, how often, and who shows it.

import {byId, hint, show} from "./dom.js";
import {Chart, legend} from "./chart.js";
import {Feed, samples} from "./feed.js";
import {FlowMap} from "./map.js";
import {FlowTable} from "./table.js";
import {Store} from "./store.js";
import {Policies, attention, head, proxies, state, tiles} from "./panels.js";
import {count, rate, clock} from "./words.js";

const WANTED = new Set(["penstock_rule_hits_total", "penstock_connections", "penstock_intercepted_connections_total",
	"penstock_events_lost_total"]);

const store = new Store(), policies = new Policies(), table = new FlowTable(store);
const chart = new Chart(byId("chart-svg"), byId("chart-hint"));
const map = new FlowMap(byId("map-svg"), byId("map-scroll"), (words) => {
	table.filter(byId("filter").value === words ? "" : words);
	byId("flows").scrollIntoView({block: "nearest", behavior: "smooth"});
});
const known = {status: null, alerts: [], handed: new Map(), connections: null, lost: 0, since: null, objects: null};
const feed = new Feed((up) => {
	known.since = up ? null : Date.now();
	draw();
});

// ---- drawing: at most once a frame for the list, twice a second for pictures ----

let fresh = new Map(), planned = false, live = false, drawn = 0;

function changed(entry) {
	if (entry.edges.length && live && !fresh.has(entry) && !entry.closed)
		map.pulse(entry);
	fresh.set(entry, entry);
	if (!planned) {
		planned = true;
		setTimeout(flush, 120);
	}
}

function flush() {
	planned = false;
	table.take([...fresh.values()]);
	fresh = new Map();
	if (Date.now() - drawn > 400)
		draw();
}

function draw() {
	const now = feed.now(), {status} = known;
	drawn = Date.now();
	store.age(now);
	state(feed.up, status, known.since, Date.now());
	if (!status)
		return;
	head(status);
	const some = map.update(store, status.workloads, now);
	byId("map-scroll").hidden = !some;
	byId("map-empty").hidden = some;
	if (!some)
		show(byId("map-empty"), hint("This node has no workloads yet. Tell the agent what runs here:",
			"kubectl get ns,nodes,pods,netpol -A -o json | penstock apply -f -"));
	byId("map-hint").textContent = some ? store.edges.size ? "a click filters the connections below" : "no connection in the last 10 minutes" : "";
	chart.update(store, now);
	legend(store);
	numbers(status, now);
	attention(status, known.alerts, known.lost, now);
	proxies(status, known.handed);
}

function numbers(status, now) {
	const of = (name) => status.workloads.filter((one) => one.state === name).length;
	const pending = of("pending"), down = status.proxies.filter((one) => !one.up).length, refused = store.refused.of(now);
	tiles([
		["open now", known.connections === null ? "…" : count(known.connections), "", "established connections"],
		["new", rate(store.begun.of(now)), "/s", "connections that pass"],
		["intercepted", rate(store.intercepted.of(now)), "/s", "handed to a proxy"],
		["refused", rate(refused), "/s", "dropped or rejected", refused >= 0.05 ? "warn" : ""],
		["workloads", count(of("attached")), "", pending ? `… ${pending} pending` : "attached", pending ? "warn" : ""],
		["proxies", `${status.proxies.length - down}`, status.proxies.length ? `of ${status.proxies.length} up` : "", down ? `▼ ${down} down` : status.proxies.length ? "all up" : "none wanted", down ? "bad" : ""],
	]);
}

// ---- what is asked for ----

feed.poll("status", 1500, async (answer) => {
	known.status = await answer.json();
	policies.quarantine(known.status.quarantined);
	byId("asked").textContent = `Last answer ${clock(feed.now())}.`;
	draw();
}, true);

feed.poll("metrics", 2000, async (answer) => {
	const found = samples(await answer.text(), WANTED), sum = (name) => found.filter((one) => one.name === name).reduce((all, one) => all + one.value, 0);
	known.connections = sum("penstock_connections");
	known.lost = found.filter((one) => one.name === "penstock_events_lost_total" && one.labels.stream !== "followers")
		.reduce((all, one) => all + one.value, 0);
	known.handed = new Map();
	for (const {name, labels, value} of found)
		if (name === "penstock_intercepted_connections_total")
			known.handed.set(labels.proxy, (known.handed.get(labels.proxy) || 0) + value);
	policies.count(found.filter((one) => one.name === "penstock_rule_hits_total"), Date.now());
});

feed.poll("policies", 2000, async (answer) => {
	const {items} = await answer.json();
	known.objects = items.filter((one) => one.kind !== "TransparentProxy").length;
	policies.objects(items);
});

feed.poll("alerts?limit=20", 2000, async (answer) => {
	known.alerts = (await answer.json()).items;
});

feed.follow("flows?follow=true&limit=3000", () => {
	live = false;
	store.trouble = null;
	setTimeout(() => {
		live = true;
	}, 500);
}, (record) => {
	const entry = store.add(record);
	if (entry)
		changed(entry);
}, (why) => {
	store.trouble = why;
	table.said();
});

setInterval(draw, 1000);
addEventListener("resize", draw);
table.said();
