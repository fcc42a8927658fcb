// SPDX-License-Identifier: Apache-2.0
// The list of connections: newest first, one row each from its first packet to its end.

import {byId, html, hint, show} from "./dom.js";
import {parse, ruleName} from "./filter.js";
import {verdictOf, bytes, clock, plural, seconds, socket} from "./words.js";

const ROWS = 150;

function end(node, ip, port) {
	const name = html("span", {class: "name"}, node.name);
	const address = socket(ip, port);
	return [name, node.name === ip ? null : html("span", {class: "address"}, address)];
}

function why(record) {
	const rule = ruleName(record.rule), kind = record.rule ? record.rule.kind : "";
	const text = {
		Policy: rule, Isolated: rule && `isolated by ${rule}`, Intercept: `${rule} → ${record.proxy}`,
		NoListener: `nobody listens for ${record.proxy || "the proxy"}`, Default: "no policy about it", Node: "the node itself",
	}[record.reason] || [record.reason, rule].filter(Boolean).join(": ");
	return html("span", {title: kind ? `${kind} ${rule}, ${record.direction}` : record.reason}, text);
}

function then({record, closed}) {
	if (record.event === "Refused")
		return "";
	if (!closed)
		return html("span", {class: "live"}, record.protocol === "TCP" ? "open" : "");
	if (record === closed)
		return html("span", {title: "closed without a handshake"}, "not accepted");
	const parts = [closed.durationSeconds === undefined ? "" : seconds(closed.durationSeconds), closed.bytes === undefined ? "" : bytes(closed.bytes)];
	return parts.filter(Boolean).join(" · ") || "closed";
}

function details(entry) {
	const {record, closed} = entry, {source, destination} = record;
	const facts = {
		"source": `${source.workload || ""} ${socket(source.ip, source.port)}`, "destination":
			`${destination.workload || ""} ${socket(destination.ip, destination.port)} ${(destination.names || []).join(" ")}`,
		"backend": record.backend && `${record.backend.workload || ""} ${socket(record.backend.ip, record.backend.port)}`,
		"verdict": `${record.verdict} (${record.reason}), ${record.direction}, revision ${record.revision}`,
		"rule": record.rule && `${record.rule.kind} ${ruleName(record.rule)}`, "proxy": record.proxy,
		"process": record.process && `${record.process.name} (${record.process.pid})`,
		"handshake": record.handshakeSeconds && seconds(record.handshakeSeconds),
		"carried": closed && closed.packets !== undefined && `${plural(closed.packets, "packet", "packets")}, ${bytes(closed.bytes)} in ${seconds(closed.durationSeconds)}`,
		"round trip": closed && closed.roundTripSeconds && seconds(closed.roundTripSeconds),
		"retransmits": closed && closed.retransmits ? String(closed.retransmits) : null,
	};
	const from = source.workload || source.ip, to = destination.workload || destination.ip;
	const port = destination.port ? ` --port ${destination.port}` : "", protocol = record.protocol === "TCP" ? "" : ` --protocol ${record.protocol}`;
	const family = source.workload && destination.workload && record.family === "IPv6" ? " --family IPv6" : "";
	return html("td", {colspan: 7}, html("dl", null, Object.entries(facts).filter(([, value]) => value && String(value).trim())
		.map(([name, value]) => html("div", null, html("dt", null, name), html("dd", null, value)))),
	html("p", null, "Ask why: ", html("code", null, `penstock explain ${from} ${to}${port}${protocol}${family}`)));
}

export class FlowTable {
	constructor(store) {
		this.store = store;
		this.rows = new Map();
		this.more = new Map(); // rows of details that are open
		this.body = byId("flows-rows");
		this.input = byId("filter");
		this.accepts = parse("");
		this.paused = false;
		this.input.addEventListener("input", () => this.filter(this.input.value));
		byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
		byId("flows-scroll").addEventListener("keydown", (event) => this.key(event));
		byId("pause").addEventListener("click", () => this.pause(!this.paused));
		document.addEventListener("keydown", (event) => {
			if (event.key === "Escape" && this.input.value)
				this.filter("");
			else if (event.key === "/" && event.target === document.body) {
				event.preventDefault();
				this.input.focus();
			}
		});
	}

	// The list is one stop of the tabulator; arrows go from row to row, Enter opens one.
	key(event) {
		const step = {ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling"}[event.key];
		let row = document.activeElement.closest("#flows-rows tr");
		if (event.key === "Enter" && row)
			this.open(row.entry, row);
		if (!step)
			return;
		event.preventDefault();
		row = row ? row[step] : this.body.firstElementChild;
		while (row && !row.entry)
			row = row[step];
		if (row)
			row.focus();
	}

	filter(text) {
		if (this.input.value !== text)
			this.input.value = text;
		this.accepts = parse(text);
		this.rows.clear();
		this.more.clear();
		this.body.replaceChildren();
		const shown = this.store.entries.filter(this.accepts).slice(-ROWS);
		this.body.append(...shown.map((entry) => this.row(entry)).reverse());
		this.said();
	}

	pause(paused) {
		this.paused = paused;
		const button = byId("pause");
		button.setAttribute("aria-pressed", String(paused));
		button.textContent = paused ? "Go on" : "Pause";
		if (!paused)
			this.filter(this.input.value);
	}

	// Entries that are new or have changed, oldest first.
	take(entries) {
		if (this.paused)
			return;
		for (const entry of entries.slice(-2 * ROWS)) {
			const row = this.rows.get(entry);
			if (row) {
				row.lastElementChild.replaceChildren(then(entry));
			} else if (this.accepts(entry)) {
				const made = this.row(entry);
				made.classList.add("new");
				this.body.prepend(made);
			}
		}
		while (this.rows.size > ROWS) {
			const [oldest] = this.rows.keys(); // they come in their order
			this.rows.get(oldest).remove();
			this.rows.delete(oldest);
			this.more.get(oldest)?.remove();
			this.more.delete(oldest);
		}
		this.said();
	}

	row(entry) {
		const {record} = entry, verdict = verdictOf(record.verdict);
		const row = html("tr", {class: record.verdict, tabindex: -1, "aria-expanded": "false", "data-from": entry.from.name, "data-to": entry.to.name},
			html("td", {class: "time"}, clock(entry.time)),
			html("td", {class: "verdict"}, html("b", {"aria-hidden": "true"}, verdict.glyph), " ", record.verdict),
			html("td", {class: "end from"}, end(entry.from, record.source.ip, record.source.port)),
			html("td", {class: "end to"}, end(entry.to, record.destination.ip, 0)),
			html("td", {class: "port"}, record.destination.port || "", html("small", null, " ", record.protocol)),
			html("td", {class: "why"}, why(record)),
			html("td", {class: "number then"}, then(entry)));
		row.addEventListener("click", () => this.open(entry, row));
		row.entry = entry;
		this.rows.set(entry, row);
		return row;
	}

	open(entry, row) {
		const former = this.more.get(entry);
		row.setAttribute("aria-expanded", String(!former));
		if (former) {
			former.remove();
			this.more.delete(entry);
			return;
		}
		const made = html("tr", {class: "more"}, details(entry));
		this.more.set(entry, made);
		row.after(made);
	}

	said() {
		const {store, input} = this, kept = store.entries.length;
		const found = input.value ? store.entries.filter(this.accepts).length : kept;
		const lost = store.lost ? `, ${plural(store.lost, "record", "records")} overwritten unread` : "";
		const trouble = store.trouble ? `; ${store.trouble}` : "";
		byId("flows-hint").textContent = trouble ? trouble.slice(2) : kept ? `${input.value ? `${found} of ` : ""}${plural(kept, "connection", "connections")} kept here${lost}` : "";
		const empty = byId("flows-empty");
		empty.hidden = found > 0;
		byId("flows-scroll").hidden = found === 0;
		if (!found)
			show(empty, kept ? hint("No connection fits this filter. Esc clears it.") :
				hint("No connection has been seen yet. As soon as a workload of this node opens one, it stands here.", "penstock flows --follow"));
	}
}
