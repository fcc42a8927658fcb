// SPDX-License-Identifier: Apache-2.0
// What was seen: the last connections, who talked to whom, and how many of each verdict in every five seconds.

import {VERDICTS} from "./words.js";

const KEEP = 3000;          // connections
const MOST = 2000;          // edges of the map
export const BIN = 5000;    // ms
export const SPAN = 600000; // ms that charts and map look back
const HALF = 20000;         // ms: how fast a rate forgets

function place(ip, names) {
	const name = names && names.length ? names[0] : ip;
	return {id: "o:" + name, kind: "outside", name, ip};
}

function workload(name) {
	const slash = name.indexOf("/");
	return {id: "w:" + name, kind: "workload", name, space: name.slice(0, slash), short: name.slice(slash + 1)};
}

export function proxyNode(name) {
	return {id: "p:" + name, kind: "proxy", name, short: name};
}

function sourceOf(record) {
	if (record.source.workload)
		return workload(record.source.workload);
	if (record.process)
		return {id: "n:", kind: "node", name: "this node", short: "this node"};
	return place(record.source.ip);
}

function destinationOf(record) {
	const {destination, backend} = record;
	const name = (backend && backend.workload) || destination.workload;
	return name ? workload(name) : place(destination.ip, destination.names);
}

// A rate that halves every HALF without events.
class Rate {
	constructor() {
		this.value = 0;
		this.at = 0;
		this.total = 0;
	}

	add(time) {
		this.value = this.of(time) + Math.LN2 / HALF * 1000;
		this.at = Math.max(this.at, time);
		this.total++;
	}

	of(time) { // a second
		return this.value * Math.pow(0.5, Math.max(0, time - this.at) / HALF);
	}
}

export class Store {
	constructor() {
		this.entries = []; // oldest first
		this.open = new Map();
		this.known = new Set();
		this.edges = new Map();
		this.bins = new Map();
		this.refused = new Rate();
		this.begun = new Rate();
		this.intercepted = new Rate();
		this.lost = 0;
		this.trouble = null; // why no more come
		this.number = 0;
	}

	// The entry that is new or has changed, or null: known already, from before a connection broke.
	add(record) {
		if (record.lost) {
			this.lost += record.lost;
			return null;
		}
		const tuple = [record.protocol, record.source.ip, record.source.port, record.destination.ip, record.destination.port].join(" ");
		const key = `${record.time} ${record.event} ${tuple}`;
		if (this.known.has(key))
			return null;
		this.known.add(key);
		const former = this.open.get(tuple);
		if (record.event === "Closed" && former) {
			former.closed = record;
			this.open.delete(tuple);
			return former;
		}
		return this.enter(record, key, tuple);
	}

	enter(record, key, tuple) {
		const entry = {
			number: ++this.number, record, key, tuple, time: Date.parse(record.time), closed: null,
			from: sourceOf(record), to: destinationOf(record), edges: [],
		};
		if (record.event === "Opened")
			this.open.set(tuple, entry);
		if (record.event === "Closed")
			entry.closed = record;
		else
			this.tally(entry);
		this.entries.push(entry);
		while (this.entries.length > KEEP)
			this.forget(this.entries.shift());
		return entry;
	}

	forget(entry) {
		this.known.delete(entry.key);
		if (entry.closed)
			this.known.delete(`${entry.closed.time} Closed ${entry.tuple}`);
		if (this.open.get(entry.tuple) === entry)
			this.open.delete(entry.tuple);
	}

	tally(entry) {
		const {record, time} = entry;
		const slot = Math.floor(time / BIN);
		const bin = this.bins.get(slot) || {};
		bin[record.verdict] = (bin[record.verdict] || 0) + 1;
		this.bins.set(slot, bin);
		const refused = VERDICTS[record.verdict] && VERDICTS[record.verdict].refused;
		(refused ? this.refused : this.begun).add(time);
		if (record.verdict === "Intercepted")
			this.intercepted.add(time);
		this.connect(entry);
	}

	// The edges of the map that a connection goes along.
	connect(entry) {
		const {record} = entry;
		if (record.verdict === "Intercepted" && record.proxy) {
			const proxy = proxyNode(record.proxy);
			entry.edges = [this.edge(entry, entry.from, proxy), this.edge(entry, proxy, entry.to)];
		} else if (record.onward && !VERDICTS[record.verdict]?.refused) {
			entry.edges = []; // the second half of one that was intercepted
		} else {
			entry.edges = [this.edge(entry, record.onward && record.proxy ? proxyNode(record.proxy) : entry.from, entry.to)];
		}
	}

	edge(entry, from, to) {
		const {record, time} = entry;
		const key = `${from.id} ${to.id} ${record.verdict}`;
		let edge = this.edges.get(key);
		if (!edge) {
			edge = {key, from, to, verdict: record.verdict, rate: new Rate(), ports: new Map()};
			this.edges.set(key, edge);
			if (this.edges.size > MOST) // a flood from everywhere
				this.edges.delete(this.edges.keys().next().value);
		}
		edge.rate.add(time);
		const port = record.destination.port ? String(record.destination.port) : record.protocol;
		edge.ports.set(port, (edge.ports.get(port) || 0) + 1);
		return edge;
	}

	age(now) {
		for (const [key, edge] of this.edges)
			if (now - edge.rate.at > SPAN)
				this.edges.delete(key);
		for (const slot of this.bins.keys())
			if (slot < (now - SPAN) / BIN - 1)
				this.bins.delete(slot);
	}

	totals() {
		const totals = {};
		for (const bin of this.bins.values())
			for (const [verdict, number] of Object.entries(bin))
				totals[verdict] = (totals[verdict] || 0) + number;
		return totals;
	}
}
