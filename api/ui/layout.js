// SPDX-License-Identifier: Apache-2.0
// Where the map's nodes stand: columns from who only begins connections to who only takes them, a lane for each namespace
// and one for proxies, everything else outside on both sides. No physics: the same traffic gives the same picture.

const CARD = 30, ROW = 38, PAD = 10, HEAD = 24, NOTE = 20, LANE_GAP = 12;
const MOST_OUTSIDE = 8, MOST_WORKLOADS = 36, MOST_EDGES = 90;

// What of the store is drawn: the liveliest edges, with the outside beyond the first few as one node.
export function choose(store, now) {
	const edges = [...store.edges.values()].sort((a, b) => b.rate.of(now) - a.rate.of(now) || b.rate.total - a.rate.total);
	const counts = {outside: 0, workload: 0};
	const seen = new Map();
	for (const edge of edges)
		for (const node of [edge.from, edge.to]) {
			if (seen.has(node.id))
				continue;
			const most = node.kind === "outside" ? MOST_OUTSIDE : node.kind === "workload" ? MOST_WORKLOADS : Infinity;
			counts[node.kind] = (counts[node.kind] || 0) + 1;
			seen.set(node.id, counts[node.kind] <= most ? node : null);
		}
	const hidden = counts.outside - MOST_OUTSIDE;
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

function columnOf(node) {
	if (node.kind === "proxy")
		return 2;
	if (node.kind === "workload")
		return node.begins && node.serves ? 2 : node.begins ? 1 : 3;
	return node.begins >= node.serves ? 0 : 4;
}

function collect(edges) {
	const nodes = new Map();
	const take = (node, field) => {
		const taken = nodes.get(node.id) || {...node, begins: 0, serves: 0, ends: []};
		taken[field]++;
		nodes.set(node.id, taken);
		return taken;
	};
	for (const edge of edges) {
		const from = take(edge.from, "begins"), to = take(edge.to, "serves");
		from.ends.push(to);
		to.ends.push(from);
	}
	for (const node of nodes.values())
		node.column = columnOf(node);
	return nodes;
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
			const where = node.kind === "proxy" ? lane("~", "proxies on this node") : lane("w:" + node.space, node.space);
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

function placeLanes(lanes, sorted) {
	let y = PAD;
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
	return y - LANE_GAP + PAD;
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

function columns(nodes, width) {
	const used = [...new Set([...nodes.values()].map((node) => node.column))].sort();
	const number = Math.max(used.length, 1), least = width > 620 ? 64 : 40;
	const card = Math.min(190, Math.max(104, (width - 4 * PAD - (number - 1) * least) / number));
	const gap = number > 1 ? Math.max(least, (width - 4 * PAD - number * card) / (number - 1)) : 0;
	const x = new Map(used.map((column, at) => [column, 2 * PAD + at * (card + gap)]));
	return {card, x, width: Math.max(width, 4 * PAD + number * card + (number - 1) * gap)};
}

export function arrange(edges, workloads, width) {
	const nodes = collect(edges), lanes = lanesOf(nodes, workloads);
	const grid = columns(nodes, width);
	placeLanes(lanes, () => 0);
	let height = placeLanes(lanes, mean);
	for (const column of [0, 4])
		placeOutside([...nodes.values()].filter((node) => node.column === column && !["workload", "proxy"].includes(node.kind)), height);
	for (const node of nodes.values()) {
		node.x = grid.x.get(node.column);
		node.width = grid.card;
		height = Math.max(height, node.y + CARD / 2 + PAD);
	}
	const inner = [...grid.x].filter(([column]) => column > 0 && column < 4).map(([, x]) => x);
	for (const lane of lanes) {
		const own = lane.key === "~" ? laneNodes(lane).map((node) => node.x) : inner;
		lane.x = (own.length ? Math.min(...own) : 2 * PAD) - PAD;
		lane.width = own.length ? Math.max(...own) - Math.min(...own) + grid.card + 2 * PAD : grid.width - 2 * PAD;
	}
	return {nodes, lanes, edges: route(edges, nodes), width: grid.width, height};
}

// ---- edges: from the right of a card to the left of one that stands further right; round the side otherwise ----

function route(edges, nodes) {
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
	made.forEach(curve);
	return made;
}

function other({edge, end}) {
	return end === "a" ? edge.to : edge.from;
}

function curve(edge) {
	const {from, to, way, a, b} = edge;
	const x1 = way < 0 ? from.x : from.x + from.width;
	const x2 = (way > 0 ? to.x : to.x + to.width) + (way > 0 ? -5 : 5); // room for the arrow's head
	const bend = way ? Math.max(24, Math.abs(x2 - x1) * 0.45) : 26 + Math.min(30, Math.abs(b - a) * 0.2);
	const c1 = x1 + (way < 0 ? -bend : bend), c2 = x2 + (way > 0 ? -bend : bend);
	edge.points = [[x1, a], [c1, a], [c2, b], [x2, b]];
	edge.path = `M${x1} ${a}C${c1} ${a} ${c2} ${b} ${x2} ${b}`;
}

// A point of the curve, t from 0 to 1.
export function pointAt(edge, t) {
	const u = 1 - t, weights = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
	return [0, 1].map((axis) => edge.points.reduce((sum, point, at) => sum + weights[at] * point[axis], 0));
}

// A place for each label where it covers neither a card nor another label; labels that find none are left out.
export function labels(edges, nodes, size) {
	const taken = [...nodes.values()].map((node) => [node.x - 2, node.y - CARD / 2 - 2, node.x + node.width + 2, node.y + CARD / 2 + 2]);
	const free = (box) => taken.every((one) => box[2] < one[0] || box[0] > one[2] || box[3] < one[1] || box[1] > one[3]);
	for (const edge of edges) {
		const [width, height] = size(edge);
		edge.label = null;
		for (const t of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82]) {
			const [x, y] = pointAt(edge, t);
			const box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
			if (!free(box))
				continue;
			taken.push(box);
			edge.label = {x, y, t, width, height};
			break;
		}
	}
}
