// SPDX-License-Identifier: Apache-2.0
// The map as SVG. Elements are kept from one drawing to the next, so that focus stays and nodes glide to new places.

import {svg} from "./dom.js";
import {arrange, choose, labels, pointAt} from "./layout.js";
import {ofEdge, ofNode} from "./filter.js";
import {verdictOf, rate, plural} from "./words.js";

const SHAPES = { // 12 by 12, beside the name
	workload: "M1.5 3.5L6 1l4.5 2.5v5L6 11 1.5 8.5zM1.5 3.5L6 6l4.5-2.5M6 6v5",
	proxy: "M6 .8L11.2 6 6 11.2.8 6z",
	outside: "M6 1a5 5 0 1 0 .01 0M1 6h10M6 1c-3 3-3 7 0 10c3-3 3-7 0-10",
	others: "M2 6h.1M6 6h.1M10 6h.1",
	node: "M1 2h10v3.5H1zM1 6.8h10v3.4H1zM3 3.8h.1M3 8.5h.1",
};
const KINDS = {workload: "workload", proxy: "proxy", outside: "outside address", others: "outside addresses", node: "the node itself"};
const PULSES = 40;
const meter = document.createElement("canvas").getContext("2d");

function textWidth(text, font) {
	meter.font = font;
	return meter.measureText(text).width;
}

// The middle goes first: names of Pods differ in their ends.
function fit(text, width, font) {
	if (textWidth(text, font) <= width)
		return text;
	for (let keep = text.length - 1; keep > 3; keep--) {
		const made = text.slice(0, Math.ceil(keep * 0.55)) + "…" + text.slice(text.length - Math.floor(keep * 0.45));
		if (textWidth(made, font) <= width)
			return made;
	}
	return text.slice(0, 3) + "…";
}

function listed(names, width, font, head) {
	for (let shown = names.length; shown > 0; shown--) {
		const text = head + names.slice(0, shown).join(", ") + (shown < names.length ? `, +${names.length - shown}` : "");
		if (shown === 1 || textWidth(text, font) <= width)
			return fit(text, width, font);
	}
	return "";
}

export class FlowMap {
	// select(words): what was clicked, as words of the filter.
	constructor(element, scroll, select) {
		Object.assign(this, {element, scroll, select, kept: new Map(), drawn: [], pulses: 0});
		this.still = matchMedia("(prefers-reduced-motion: reduce)");
		const arrows = Object.keys({Forwarded: 1, Intercepted: 1, Audited: 1, Dropped: 1, Rejected: 1}).map((name) =>
			svg("marker", {id: "head-" + name, viewBox: "0 0 8 8", refX: 3, refY: 4, markerWidth: 7, markerHeight: 7,
				markerUnits: "userSpaceOnUse", orient: "auto"}, svg("path", {class: "head " + name, d: "M0 0l8 4-8 4 2-4z"})));
		this.layers = Object.fromEntries(["lanes", "edges", "notes", "pulses", "nodes", "labels"].map((name) => [name, svg("g", {class: name})]));
		this.scroll.addEventListener("keydown", (event) => this.key(event));
		this.element.append(svg("defs", null, arrows), ...Object.values(this.layers));
	}

	update(store, workloads, now) {
		const style = getComputedStyle(this.element), family = style.fontFamily;
		this.fonts = {name: `12px ${family}`, note: `11px ${family}`, title: `600 11px ${family}`, label: `600 10px ${family}`};
		const width = Math.max(this.scroll.clientWidth, 300);
		const plan = arrange(choose(store, now, width), workloads, Math.floor(width));
		this.plan = plan;
		this.element.setAttribute("width", plan.width);
		this.element.setAttribute("height", plan.height);
		this.element.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
		const quiet = plan.edges.length > 26;
		for (const edge of plan.edges)
			this.describe(edge, quiet, now);
		plan.lanes.forEach((lane) => this.name(lane));
		labels(plan.edges, plan.nodes, plan.lanes, (text) => [textWidth(text, this.fonts.label) + 12, 16]);
		this.begin();
		plan.lanes.forEach((lane) => this.lane(lane));
		plan.edges.forEach((edge) => this.edge(edge, now));
		this.order = [...plan.nodes.values()].sort((a, b) => a.column - b.column || a.y - b.y);
		this.order.forEach((node) => this.node(node));
		this.end();
		this.highlight();
		return plan.nodes.size + plan.lanes.length > 0;
	}

	// The map is one stop of the tabulator: arrows go from node to node and along what each begins, Enter filters.
	key(event) {
		const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key], at = document.activeElement;
		if ((event.key === "Enter" || event.key === " ") && at.words !== undefined) {
			event.preventDefault();
			this.select(at.words);
		}
		if (!step || !this.plan)
			return;
		event.preventDefault();
		const order = this.order.flatMap((node) => ["node " + node.id,
			...this.plan.edges.filter((edge) => edge.from === node).map((edge) => "edge " + edge.key)]);
		const next = order[Math.min(order.length - 1, Math.max(0, order.indexOf(at.key) + step))];
		this.kept.get(next)?.focus();
	}

	// ---- keeping elements ----

	begin() {
		this.used = new Set();
	}

	keep(layer, key, make) {
		this.used.add(key);
		if (!this.kept.has(key)) {
			const made = make();
			this.kept.set(key, made);
			this.layers[layer].append(made);
		}
		return this.kept.get(key);
	}

	end() {
		for (const [key, element] of this.kept)
			if (!this.used.has(key)) {
				element.remove();
				this.kept.delete(key);
			}
	}

	set(element, attributes) {
		for (const [name, value] of Object.entries(attributes))
			if (element.getAttribute(name) !== String(value))
				element.setAttribute(name, value);
	}

	text(element, text) {
		if (element.textContent !== text)
			element.textContent = text;
	}

	chosen(element, words, label) {
		element.setAttribute("tabindex", "-1");
		element.setAttribute("role", "button");
		element.setAttribute("aria-label", label);
		element.words = words;
		if (element.ready)
			return;
		element.ready = true;
		element.addEventListener("click", () => this.select(element.words));
		for (const [event, key] of [["pointerenter", "hover"], ["focus", "hover"], ["pointerleave", null], ["blur", null]])
			element.addEventListener(event, () => {
				this.hovered = key && element.key;
				this.highlight();
			});
	}

	// ---- drawing ----

	name(lane) {
		const inner = lane.width - 24, pending = lane.pending.map((name) => `${name} (pending)`);
		lane.said = fit(lane.title, inner, this.fonts.title);
		lane.noted = lane.note ? listed([...pending, ...lane.silent], inner, this.fonts.note, "quiet: ") : "";
		lane.wide = [textWidth(lane.said, this.fonts.title), lane.noted ? textWidth(lane.noted, this.fonts.note) : -24];
	}

	lane(lane) {
		const box = this.keep("lanes", "lane " + lane.key, () => svg("rect", {class: "lane", rx: 10}));
		const words = this.keep("notes", "note " + lane.key, () => svg("g", {class: "lane"}, svg("text", {class: "title"}), svg("text", {class: "note"})));
		const [title, note] = words.children;
		this.set(box, {x: lane.x, y: lane.y, width: lane.width, height: lane.height});
		this.set(title, {x: lane.x + 12, y: lane.y + 16});
		this.text(title, lane.said);
		this.set(note, {x: lane.x + 12, y: lane.y + lane.height - 8});
		this.text(note, lane.noted);
	}

	describe(edge, quiet, now) {
		const ports = new Map();
		edge.rate = 0;
		edge.total = 0;
		edge.last = 0;
		for (const part of edge.parts) {
			edge.rate += part.rate.of(now);
			edge.total += part.rate.total;
			edge.last = Math.max(edge.last, part.rate.at);
			part.ports.forEach((number, port) => ports.set(port, (ports.get(port) || 0) + number));
		}
		const sorted = [...ports].sort((a, b) => b[1] - a[1]).map(([port]) => port);
		const verdict = verdictOf(edge.verdict), plain = edge.verdict === "Forwarded";
		const leg = edge.from.kind === "proxy";
		edge.ports = sorted;
		const port = sorted[0] + (sorted.length > 1 ? "…" : "");
		edge.texts = leg ? [] : plain ? [port] : [`${verdict.glyph} ${port}`, verdict.glyph];
		if (quiet)
			edge.texts.shift();
	}

	edge(edge, now) {
		const group = this.keep("edges", "edge " + edge.key, () => svg("g", {class: "flow"},
			svg("path", {class: "wide"}), svg("path", {}), svg("title")));
		const [wide, line, title] = group.children, verdict = verdictOf(edge.verdict);
		const age = now - edge.last;
		group.key = "edge " + edge.key;
		this.set(group, {class: `flow ${age < 30000 ? "fresh" : age < 120000 ? "" : "old"}`, "data-from": edge.from.name,
			"data-to": edge.to.name, "data-verdict": edge.verdict});
		this.set(wide, {d: edge.path});
		this.set(line, {d: edge.path, class: "edge " + edge.verdict, "marker-end": `url(#head-${edge.verdict})`,
			"stroke-width": Math.min(6, 1.4 + Math.log2(1 + edge.rate * 4)).toFixed(2)});
		const said = `${edge.from.name} to ${edge.to.name}, port ${edge.ports.slice(0, 4).join(", ")}${edge.ports.length > 4 ? " …" : ""}: ` +
			`${edge.verdict} (${verdict.means}), ${plural(edge.total, "connection", "connections")}, ${rate(edge.rate)} a second`;
		this.text(title, said);
		const words = edge.from.kind === "others" || edge.to.kind === "others" ? "verdict:" + edge.verdict : ofEdge(edge);
		this.chosen(group, words, said);
		if (edge.label)
			this.label(edge);
	}

	label(edge) {
		const group = this.keep("labels", "label " + edge.key, () => svg("g", {class: "label"}, svg("rect", {rx: 8}), svg("text")));
		const [box, text] = group.children, {x, y, width, height} = edge.label;
		this.set(group, {class: "label " + edge.verdict});
		this.set(box, {x: x - width / 2, y: y - height / 2, width, height});
		this.set(text, {x, y: y + 3.5});
		this.text(text, edge.label.text);
	}

	node(node) {
		const group = this.keep("nodes", "node " + node.id, () => svg("g", {class: "node " + node.kind},
			svg("rect", {height: 30, rx: 7}), svg("path", {class: "shape", d: SHAPES[node.kind], transform: "translate(9 9)"}),
			svg("text", {x: 27, y: 19.5}), svg("title")));
		const [box, , text, title] = group.children;
		group.key = "node " + node.id;
		group.style.transform = `translate(${node.x}px, ${node.y - 15}px)`;
		this.set(box, {width: node.width});
		this.set(group, {"data-name": node.name});
		this.text(text, fit(node.short || node.name, node.width - 35, this.fonts.name));
		const said = `${KINDS[node.kind]} ${node.kind === "node" ? "" : node.name}`.trim();
		this.text(title, said);
		this.chosen(group, node.kind === "others" ? "" : ofNode(node), said + ": show its connections");
	}

	// What is pointed at stands out, with its edges and their ends.
	highlight() {
		const {hovered, plan} = this;
		this.element.classList.toggle("pointed", Boolean(hovered));
		if (!plan)
			return;
		const near = new Set();
		for (const edge of plan.edges)
			if (hovered === "edge " + edge.key || hovered === "node " + edge.from.id || hovered === "node " + edge.to.id)
				["edge " + edge.key, "label " + edge.key, "node " + edge.from.id, "node " + edge.to.id].forEach((key) => near.add(key));
		near.add(hovered);
		for (const [key, element] of this.kept)
			element.classList.toggle("near", near.has(key));
	}

	// ---- a dot for each connection, as it comes ----

	pulse(entry) {
		if (this.still.matches || !this.plan || document.hidden)
			return;
		entry.edges.forEach((one, at) => {
			const edge = this.plan.edges.find((drawn) => drawn.parts.includes(one));
			if (edge && this.pulses < PULSES)
				setTimeout(() => this.run(edge), at * 700);
		});
	}

	run(edge) {
		const refused = verdictOf(edge.verdict).refused, end = refused ? (edge.label ? edge.label.t : 0.5) : 1;
		const dot = svg("circle", {class: "pulse " + edge.verdict, r: 3.5}), begun = performance.now();
		this.pulses++;
		this.layers.pulses.append(dot);
		const move = (time) => {
			const part = Math.min(1, (time - begun) / 700), [x, y] = pointAt(edge, part * end);
			dot.setAttribute("cx", x);
			dot.setAttribute("cy", y);
			dot.setAttribute("r", refused && part > 0.85 ? 3.5 + (part - 0.85) * 30 : 3.5);
			dot.setAttribute("opacity", part > 0.85 ? (1 - part) / 0.15 : 1);
			if (part < 1) {
				requestAnimationFrame(move);
			} else {
				dot.remove();
				this.pulses--;
			}
		};
		requestAnimationFrame(move);
	}
}
