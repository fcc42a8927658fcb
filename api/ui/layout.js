// SPDX-License-Identifier: Apache-2.0
// Where the map's nodes stand: columns from who only begins connections to who only takes them, a lane for each namespace
// and one for proxies, everything else outside on both sides. No physics: the same traffic gives the same picture.

import {verdictOf} from "./words.js";

const CARD = 30, ROW = 38, PAD = 10, HEAD = 24, NOTE = 20, LANE_GAP = 12;
const MOST_OUTSIDE = 8, MOST_WORKLOADS = 36, MOST_EDGES = 90;
const NARROW = 560; // less: two columns, with the outside above and below

// What of the store is drawn: the liveliest edges, with the outside beyond the first few as one node.
export function choose(store, now, width) {
	const few = width < NARROW ? 4 : MOST_OUTSIDE;
	const weight = (edge) => edge.rate.total * (verdictOf(edge.verdict).refused ? 5 : 1); // what was refused is what one looks for
	const edges = [...store.edges.values()].sort((a, b) => weight(b) - weight(a) || (a.key < b.key ? -1 : 1));
	const counts = {outside: 0, workload: 0};
	const seen = new Map();
	for (const edge of edges)
		for (const node of [edge.from, edge.to]) {
			if (seen.has(node.id))
				continue;
			const most = node.kind === "outside" ? few : node.kind === "workload" ? MOST_WORKLOADS : Infinity;
			counts[node.kind] = (counts[node.kind] || 0) + 1;
			seen.set(node.id, counts[node.kind] <= most ? node : null);
		}
	const hidden = counts.outside - few;
	const others = {id: "o:*", kind: "others", name: `${hidden} more addresses`, short: `${hidden} more`};
	const merged = new Map();
	for (const edge of edges) {
		const [from, to] = [edge.from, edge.to].map((node) => seen.get(node.id) || (node.kind === "outside" ? others : null));
		if (!from || !to)
			continue;
		const key = `${from.id} ${to.id} ${edge.verdict}`;
		const drawn = merged.get(key) || {key, from, to, verdict: edge.verdict, parts: []};
		drawn.parts.push(edge);
		merged.set(key, drawn);
	}
	return [...merged.values()].slice(0, MOST_EDGES);
}

const LEFT = -1, RIGHT = 99; // columns of who is no workload and no proxy of this node

function collect(edges, most) {
	const nodes = new Map();
	const take = (node) => {
		const taken = nodes.get(node.id) || {...node, begins: [], serves: [], ends: []};
		nodes.set(node.id, taken);
		return taken;
	};
	for (const edge of edges) {
		const from = take(edge.from), to = take(edge.to);
		from.begins.push(to);
		to.serves.push(from);
		from.ends.push(to);
		to.ends.push(from);
	}
	const inner = [...nodes.values()].filter(isInner).sort((a, b) => inside(a.serves) - inside(b.serves) || (a.id < b.id ? -1 : 1));
	const state = new Map();
	inner.forEach((node) => settle(node, state));
	for (const node of nodes.values())
		node.column = isInner(node) ? Math.min(rank(node, state), most - 1) : node.begins.length >= node.serves.length ? LEFT : RIGHT;
	return nodes;
}

function isInner(node) {
	return node.kind === "workload" || node.kind === "proxy";
}

function inside(nodes) {
	return nodes.filter(isInner).length;
}

// Notes who comes before whom, without the edges that would close a circle.
function settle(node, state) {
	if (state.has(node.id))
		return;
	const own = {before: [], open: true};
	state.set(node.id, own);
	for (const next of node.begins.filter(isInner)) {
		settle(next, state);
		if (!state.get(next.id).open)
			state.get(next.id).before.push(node);
	}
	own.open = false;
}

// The longest way there.
function rank(node, state) {
	const own = state.get(node.id);
	if (own.rank === undefined) {
		own.rank = 0;
		own.rank = Math.max(node.kind === "proxy" ? 1 : 0, ...own.before.map((one) => rank(one, state) + 1));
	}
	return own.rank;
}

// Lanes, each with its nodes by column; `silent` are workloads of this node that nobody talks to.
function lanesOf(nodes, workloads) {
	const lanes = new Map();
	const lane = (key, title) => {
		if (!lanes.has(key))
			lanes.set(key, {key, title, columns: new Map(), silent: [], pending: []});
		return lanes.get(key);
	};
	for (const one of workloads)
		if (one.state === "attached" || one.state === "pending") {
			const where = lane("w:" + one.namespace, one.namespace);
			if (one.state === "pending")
				where.pending.push(one.name);
			else if (!nodes.has(`w:${one.namespace}/${one.name}`))
				where.silent.push(one.name);
		}
	for (const node of nodes.values())
		if (node.kind === "workload" || node.kind === "proxy") {
			const where = node.kind === "proxy" ? lane("~", "proxies") : lane("w:" + node.space, node.space);
			where.columns.set(node.column, [...(where.columns.get(node.column) || []), node]);
		}
	return [...lanes.values()].sort((a, b) => a.key < b.key ? -1 : 1);
}

function mean(node) {
	const placed = node.ends.filter((end) => end.y !== undefined);
	return placed.length ? placed.reduce((sum, end) => sum + end.y, 0) / placed.length : 0;
}

function laneNodes(lane) {
	return [...lane.columns.values()].flat();
}

function placeLanes(lanes, sorted, y) {
	for (const lane of lanes) {
		lane.y = y;
		const rows = Math.max(0, ...[...lane.columns.values()].map((column) => column.length));
		lane.note = lane.silent.length || lane.pending.length;
		lane.height = HEAD + rows * ROW + (lane.note ? NOTE : rows ? 2 : 6);
		for (const column of lane.columns.values()) {
			column.sort((a, b) => sorted(a) - sorted(b) || (a.name < b.name ? -1 : 1));
			const begun = y + HEAD + (rows - column.length) * ROW / 2;
			column.forEach((node, at) => {
				node.y = begun + at * ROW + CARD / 2;
			});
		}
		y += lane.height + LANE_GAP;
	}
	return lanes.length ? y - LANE_GAP + PAD : y;
}

// Outside ones stand as near as they can to whom they talk to.
function placeOutside(nodes, height) {
	nodes.sort((a, b) => mean(a) - mean(b) || (a.name < b.name ? -1 : 1));
	let free = PAD + CARD / 2;
	for (const node of nodes) {
		node.y = Math.max(free, mean(node));
		free = node.y + ROW;
	}
	let floor = Math.max(height - PAD - CARD / 2, PAD + CARD / 2 + (nodes.length - 1) * ROW);
	for (const node of [...nodes].reverse()) {
		node.y = Math.min(node.y, floor);
		floor = node.y - ROW;
	}
}

// Outside ones of a narrow map stand in a column of their own kind of lane.
function placeStack(nodes, y) {
	nodes.sort((a, b) => a.name < b.name ? -1 : 1).forEach((node, at) => {
		node.y = y + CARD / 2 + at * ROW;
	});
	return y + nodes.length * ROW;
}

function columns(nodes, width) {
	const used = [...new Set([...nodes.values()].map((node) => node.column))].sort((a, b) => a - b);
	const narrow = width < NARROW, number = Math.max(used.length, 1), least = narrow ? 44 : 76;
	const room = width - 4 * PAD - (used.includes(RIGHT) ? 0 : 38); // for what goes round the side
	const most = narrow ? 200 : Math.min(190, room / number * 0.64); // edges and their labels need room too
	const card = Math.max(96, Math.min(most, (room - (number - 1) * least) / number));
	const gap = number > 1 ? Math.max(least, (room - number * card) / (number - 1)) : 0;
	const x = new Map(used.map((column, at) => [column, 2 * PAD + at * (card + gap)]));
	return {card, gap, x, used, width: Math.max(width, width - room + number * card + (number - 1) * gap)};
}

function place(nodes, lanes, narrow) {
	const outer = (column) => [...nodes.values()].filter((node) => node.outer === column);
	if (narrow) {
		const top = placeStack(outer(LEFT), PAD);
		placeLanes(lanes, () => 0, top);
		return placeStack(outer(RIGHT), placeLanes(lanes, mean, top)) + PAD;
	}
	placeLanes(lanes, () => 0, PAD);
	const height = placeLanes(lanes, mean, PAD);
	placeOutside(outer(LEFT), height);
	placeOutside(outer(RIGHT), height);
	return height;
}

export function arrange(edges, workloads, width) {
	const narrow = width < NARROW;
	const nodes = collect(edges, width > 900 ? 4 : narrow ? 2 : 3), lanes = lanesOf(nodes, workloads);
	for (const node of nodes.values()) {
		node.outer = isInner(node) ? 0 : node.column;
		if (narrow && node.outer)
			node.column = node.outer === LEFT ? 0 : 1;
	}
	const grid = columns(nodes, width);
	let height = place(nodes, lanes, narrow);
	for (const node of nodes.values()) {
		node.x = grid.x.get(node.column);
		node.width = grid.card;
		if (node.outer) { // an address is longer than most names
			const more = narrow ? grid.gap - 8 : Math.min(30, grid.gap * 0.35);
			node.width += more;
			node.x -= node.outer === RIGHT && grid.used[0] !== node.column ? more : 0;
		}
		height = Math.max(height, node.y + CARD / 2 + PAD);
	}
	const inner = [...grid.x].filter(([column]) => column !== LEFT && column !== RIGHT).map(([, x]) => x);
	for (const lane of lanes) {
		const own = lane.key === "~" ? laneNodes(lane).map((node) => node.x) : inner;
		lane.x = (own.length ? Math.min(...own) : 2 * PAD) - PAD;
		lane.width = own.length ? Math.max(...own) - Math.min(...own) + grid.card + 2 * PAD : grid.width - 2 * PAD;
	}
	return {nodes, lanes, edges: route(edges, nodes, grid), width: grid.width, height};
}

// ---- edges: from the right of a card to the left of one that stands further right, between the cards on the way ----

function route(edges, nodes, grid) {
	const sides = new Map();
	const attach = (node, side, edge, end) => {
		const key = node.id + side;
		sides.set(key, [...(sides.get(key) || []), {edge, end, node}]);
	};
	const made = edges.map((edge) => {
		const from = nodes.get(edge.from.id), to = nodes.get(edge.to.id);
		const way = Math.sign(to.column - from.column);
		const drawn = {...edge, from, to, way};
		attach(from, way < 0 ? "l" : "r", drawn, "a");
		attach(to, way > 0 ? "l" : "r", drawn, "b");
		return drawn;
	});
	for (const list of sides.values()) {
		list.sort((one, two) => other(one).y - other(two).y || (one.edge.key < two.edge.key ? -1 : 1));
		const step = Math.min(7, (CARD - 8) / list.length);
		list.forEach(({edge, end, node}, at) => {
			edge[end] = node.y + (at - (list.length - 1) / 2) * step;
		});
	}
	const gaps = new Map();
	made.forEach((edge) => curve(edge, between(edge, nodes, grid, gaps)));
	return made;
}

function other({edge, end}) {
	return end === "a" ? edge.to : edge.from;
}

// Where the edge passes the columns on its way: [x, y] of where it comes to the column and of where it leaves it.
function between(edge, nodes, grid, gaps) {
	const [low, high] = [edge.from.column, edge.to.column].sort((a, b) => a - b);
	const passed = grid.used.filter((column) => column > low && column < high);
	if (edge.way < 0)
		passed.reverse();
	return passed.flatMap((column, at) => {
		let y = edge.a + (edge.b - edge.a) * (at + 1) / (passed.length + 1);
		const card = [...nodes.values()].find((node) => node.column === column && Math.abs(node.y - y) < ROW / 2);
		if (card) {
			y = card.y + (y < card.y ? -ROW / 2 : ROW / 2);
			const key = `${column} ${y}`, number = gaps.get(key) || 0;
			gaps.set(key, number + 1);
			y += [0, 2.5, -2.5][number % 3];
		}
		const x = grid.x.get(column);
		return edge.way > 0 ? [[x, y], [x + grid.card, y]] : [[x + grid.card, y], [x, y]];
	});
}

function curve(edge, passed) {
	const {from, to, way, a, b} = edge;
	const x1 = way < 0 ? from.x : from.x + from.width;
	const x2 = (way > 0 ? to.x : to.x + to.width) + (way > 0 ? -5 : 5); // room for the arrow's head
	const points = [[x1, a], ...passed, [x2, b]];
	edge.pieces = points.slice(1).map(([x, y], at) => {
		const [x0, y0] = points[at];
		const bend = way ? Math.max(y === y0 ? 0 : 18, Math.abs(x - x0) * 0.45) * way : 24 + Math.min(20, Math.abs(b - a) * 0.2);
		return [[x0, y0], [x0 + bend, y0], [way ? x - bend : x + bend, y], [x, y]];
	});
	const long = edge.pieces.map(([p, , , q]) => Math.hypot(p[0] - q[0], p[1] - q[1]) + 1), all = long.reduce((sum, one) => sum + one, 0);
	edge.shares = long.map((one) => one / all);
	edge.path = `M${x1} ${a}` + edge.pieces.map(([, c, d, q]) => `C${c} ${d} ${q}`).join("");
}

// A point of the curve, t from 0 to 1.
export function pointAt(edge, t) {
	let at = 0;
	while (at < edge.shares.length - 1 && t > edge.shares[at])
		t -= edge.shares[at++];
	const part = Math.min(1, t / edge.shares[at]), u = 1 - part;
	const weights = [u * u * u, 3 * u * u * part, 3 * u * part * part, part * part * part];
	return [0, 1].map((axis) => edge.pieces[at].reduce((sum, point, number) => sum + weights[number] * point[axis], 0));
}

// A place for each label, or its shorter text, where it covers neither a card nor a name nor another label; what finds none
// is left out.
export function labels(edges, nodes, lanes, size) {
	const taken = [...nodes.values()].map((node) => [node.x - 2, node.y - CARD / 2 - 2, node.x + node.width + 2, node.y + CARD / 2 + 2]);
	for (const {x, y, height, wide} of lanes)
		taken.push([x + 8, y, x + 16 + wide[0], y + HEAD - 4], [x + 8, y + height - NOTE, x + 16 + wide[1], y + height]);
	const free = (box) => taken.every((one) => box[2] < one[0] || box[0] > one[2] || box[3] < one[1] || box[1] > one[3]);
	const find = (edge, text) => {
		const [width, height] = size(text);
		for (const t of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82, 0.1]) {
			const [x, y] = pointAt(edge, t);
			const box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
			if (free(box)) {
				taken.push(box);
				return {text, x, y, t, width, height};
			}
		}
		return null;
	};
	for (const edge of edges)
		edge.label = edge.texts.reduce((found, text) => found || find(edge, text), null);
}
