// SPDX-License-Identifier: Apache-2.0
// Everything beside map, chart and list: the head, numbers, what needs attention, policies, proxies.

import {byId, html, hint, show} from "./dom.js";
import {clock, count, plural, rate} from "./words.js";

const HOUR = 3600000;
const MOST_POLICIES = 300;

export function head(status) {
	document.title = `${status.node} · Penstock`;
	byId("node").textContent = status.node;
	show(byId("facts"), Object.entries({
		revision: status.revision, engine: status.engine.active, kernel: status.kernel, version: status.version,
	}).map(([name, value]) => html("div", null, html("dt", null, name), html("dd", null, String(value)))));
}

// up: whether the agent answers; since when it does not; what is known of it.
export function state(up, status, since, now) {
	const pill = byId("state"), banner = byId("banner");
	const ready = up && status && status.ready;
	pill.className = "pill " + (ready ? "good" : up === null ? "" : "bad");
	const text = up === null ? "connecting" : !up ? "✕ no answer" : ready ? "✓ enforcing" : "! not ready";
	if (pill.textContent !== text)
		pill.textContent = text;
	document.body.classList.toggle("gone", up === false);
	banner.hidden = up !== false;
	if (up === false)
		show(banner, html("strong", null, "The agent does not answer"), ` since ${clock(since || now)}. `,
			status ? `The kernel goes on enforcing revision ${status.revision}. ` : "", "This page tries again by itself. On the node: ",
			html("code", null, "penstock doctor"));
}

export function tiles(facts) {
	show(byId("tiles"), facts.map(([name, value, unit, note, tone]) => html("div", {class: "tile " + (tone || ""), "data-name": name},
		html("p", {class: "name"}, name), html("p", {class: "value"}, value, unit ? html("small", null, " " + unit) : null),
		html("p", {class: "note"}, note || "\u00a0"))));
}

function item(tone, glyph, title, ...body) {
	return html("li", {class: tone}, html("b", {class: "glyph", "aria-hidden": "true"}, glyph), html("div", null, html("p", {class: "title"}, title), body));
}

function quarantined(one) {
	const name = one.namespace ? `${one.namespace}/${one.name}` : one.name;
	return item("bad", "✕", `${one.kind} ${name} is in quarantine`, html("ul", {class: "errors"}, (one.errors || []).map((error) =>
		html("li", null, html("code", null, error.pointer || "/"), " ", error.detail))));
}

function alert(one) {
	const critical = one.severity === "critical";
	return item(critical ? "bad" : "warn", critical ? "✕" : "!", [one.alert, html("time", null, clock(Date.parse(one.time)))],
		html("p", null, one.detail));
}

// now: of the agent's clock.
export function attention(status, alerts, lost, now) {
	const items = [], down = status.proxies.filter((one) => !one.up);
	const recent = alerts.filter((one) => now - Date.parse(one.time) < HOUR);
	const said = (one) => one.alert === "ProxyDown" && down.some((proxy) => one.detail.includes(proxy.name));
	if (!status.ready)
		items.push(item("bad", "✕", "The data path does not enforce the wanted state yet"));
	if (status.lastError)
		items.push(item("bad", "✕", "The last error", html("p", null, typeof status.lastError === "string" ? status.lastError : status.lastError.detail || JSON.stringify(status.lastError))));
	items.push(...status.quarantined.map(quarantined));
	for (const proxy of down)
		items.push(item("bad", "▼", `Proxy ${proxy.name} is down`, html("p", null, proxy.onUnavailable === "Deny" ?
			"connections that are to go to it are refused" : "connections go past it, to where they were going")));
	const pending = status.workloads.filter((one) => one.state === "pending");
	if (pending.length)
		items.push(item("warn", "…", `${plural(pending.length, "workload is", "workloads are")} pending`, html("p", null,
			pending.slice(0, 5).map((one) => `${one.namespace}/${one.name}`).join(", "), pending.length > 5 ? ` and ${pending.length - 5} more` : "",
			": no interface of this node leads there")));
	for (const map of status.maps || [])
		if (map.capacity && map.entries / map.capacity >= 0.8)
			items.push(item("warn", "!", `Table ${map.map} is ${Math.round(100 * map.entries / map.capacity)} % full`));
	if (lost)
		items.push(item("warn", "!", `${plural(lost, "event was", "events were")} lost`, html("p", null, "more came than could be read: connections are missing here, not in what is enforced")));
	items.push(...recent.filter((one) => !said(one)).slice(-6).reverse().map(alert));
	if (!items.length)
		items.push(item("good", "✓", "Nothing", html("p", null, "no alert in the last hour, nothing pending, nothing in quarantine")));
	show(byId("attention-list"), items);
}

// ---- policies ----

const ORDER = {Admin: 0, NetworkPolicy: 1, Baseline: 2, InterceptPolicy: 3, NodeFilter: 4};

function policyKey(kind, namespace, name) {
	return `${kind} ${namespace || ""} ${name}`;
}

export class Policies {
	constructor() {
		this.list = null;
		this.hits = new Map(); // of a rule: {value, rate, at}
		this.aside = new Set(); // in quarantine
		byId("unused").addEventListener("change", () => this.render());
	}

	objects(items) {
		this.list = items.filter((one) => one.kind !== "TransparentProxy");
		this.render();
	}

	quarantine(list) {
		this.aside = new Set(list.map((one) => policyKey(one.kind, one.namespace, one.name)));
	}

	// Hits as penstock_rule_hits_total says them; the rate over the last looks, smoothed.
	count(samples, now) {
		const seen = new Map();
		for (const {labels, value} of samples) {
			const key = JSON.stringify(labels), former = this.hits.get(key);
			const passed = former ? (now - former.at) / 1000 : 0, fresh = passed > 0 && value >= former.value ? (value - former.value) / passed : 0;
			const smooth = former ? former.rate + (fresh - former.rate) * Math.min(1, passed / 6) : 0;
			seen.set(key, {labels, value, at: now, rate: smooth < 0.005 ? 0 : smooth});
		}
		this.hits = seen;
		this.render();
	}

	groups() {
		const groups = new Map();
		for (const one of this.list || []) {
			const {namespace, name, annotations} = one.metadata;
			const spec = one.spec || {};
			groups.set(policyKey(one.kind, namespace, name), {
				kind: one.kind, namespace: namespace || "", name, tier: spec.tier, priority: spec.priority,
				audit: (annotations || {})["penstock.dev/mode"] === "audit", rules: [],
			});
		}
		for (const rule of this.hits.values()) {
			const {kind, policy_namespace: namespace, policy: name} = rule.labels, key = policyKey(kind, namespace, name);
			if (!groups.has(key))
				groups.set(key, {kind, namespace, name, rules: []});
			groups.get(key).rules.push(rule);
		}
		return [...groups.values()].sort((a, b) => (ORDER[a.tier || a.kind] ?? 9) - (ORDER[b.tier || b.kind] ?? 9) ||
			(a.priority ?? 0) - (b.priority ?? 0) || (a.namespace + a.name < b.namespace + b.name ? -1 : 1));
	}

	rows(group) {
		const aside = this.aside.has(policyKey(group.kind, group.namespace, group.name));
		const title = html("th", {scope: "rowgroup", rowspan: Math.max(1, group.rules.length)},
			html("span", {class: "name"}, group.namespace ? `${group.namespace}/${group.name}` : group.name), " ",
			html("span", {class: "kind"}, group.kind, group.tier ? ` · ${group.tier} ${group.priority ?? ""}` : group.kind === "InterceptPolicy" ? ` · ${group.priority ?? ""}` : ""),
			group.audit ? " " : null, group.audit ? html("span", {class: "badge", title: "counted and shown, not enforced"}, "? audit") : null,
			aside ? [" ", html("span", {class: "badge bad", title: "the last good version stays in force; without one it isolates"}, "✕ quarantine")] : null);
		if (!group.rules.length)
			return html("tr", {class: "idle"}, title, html("td", {colspan: 3}, "selects no workload of this node"));
		return group.rules.map((rule, at) => html("tr", {class: rule.value ? "" : "idle", "data-policy": group.name, "data-rule": rule.labels.rule},
			at ? null : title, html("td", null, rule.labels.direction, " ", html("span", {class: "rule"}, /^\d+$/.test(rule.labels.rule) ? "#" + rule.labels.rule : rule.labels.rule)),
			html("td", {class: "number hits"}, rule.value ? count(rule.value) : "no hit"),
			html("td", {class: "number"}, rule.rate ? rate(rule.rate) : "")));
	}

	render() {
		if (!this.list)
			return;
		const groups = this.groups(), only = byId("unused").checked;
		const shown = only ? groups.filter((group) => group.rules.every((rule) => !rule.value)) : groups;
		const idle = groups.filter((group) => group.rules.every((rule) => !rule.value)).length;
		const cut = shown.length > MOST_POLICIES ? `; the first ${MOST_POLICIES} are listed` : "";
		byId("policies-hint").textContent = groups.length ? `${plural(groups.length, "policy", "policies")}, ${idle} without hits${cut}` : "";
		byId("policies-scroll").hidden = !shown.length;
		byId("policies-empty").hidden = shown.length > 0;
		show(byId("policies-rows"), shown.slice(0, MOST_POLICIES).map((group) => this.rows(group)));
		if (!shown.length)
			show(byId("policies-empty"), groups.length ? hint("Every policy has hits.") :
				hint("No policy yet: everything passes.", "penstock apply -f policy.yaml", "kubectl get netpol,cnp -A -o json | penstock apply -f -"));
	}
}

// ---- proxies ----

function listener(one) {
	const ignored = one.state === "Ignored";
	return html("li", {class: ignored ? "ignored" : ""}, html("code", null, `${one.protocol} ${one.address.includes(":") ? `[${one.address}]` : one.address}:${one.port}`), " ",
		one.executable ? one.executable.split("/").pop() : "", one.pid ? html("small", null, ` pid ${one.pid}`) : null, " ",
		html("span", {class: "kind"}, one.state), one.why ? html("p", null, one.why) : null);
}

export function proxies(status, handed) {
	byId("proxies-empty").hidden = status.proxies.length > 0;
	show(byId("proxies-list"), status.proxies.map((proxy) => html("li", {class: proxy.up ? "good" : "bad", "data-name": proxy.name},
		html("div", {class: "line"}, html("span", {class: "badge " + (proxy.up ? "good" : "bad")}, proxy.up ? "▲ up" : "▼ down"),
			html("span", {class: "name"}, proxy.name), html("span", {class: "kind"}, `port ${proxy.port} · ${proxy.protocols.join(", ")}`)),
		html("p", null, `${plural(handed.get(proxy.name) || 0, "connection", "connections")} handed over · without a listener: `,
			proxy.onUnavailable === "Deny" ? "refused" : "go past it"),
		proxy.listeners.length ? html("ul", {class: "listeners"}, proxy.listeners.map(listener)) : html("p", {class: "muted"}, `nobody listens on port ${proxy.port}`))));
	if (!status.proxies.length)
		show(byId("proxies-empty"), hint("No TransparentProxy: no connection is intercepted. Start a proxy on a port of the node, then name it, and what goes there:",
			"penstock apply -f proxy.yaml"));
}
