// SPDX-License-Identifier: Apache-2.0
// The filter of connections: words that must all be found, or key:value that must hold; "-" in front turns one round.

export const KEYS = {
	from: (entry, value) => is(entry.from, value) || entry.record.source.ip === value,
	to: (entry, value) => is(entry.to, value) || entry.record.destination.ip === value,
	workload: (entry, value) => [entry.from, entry.to].some((node) => node.kind === "workload" && node.name === value),
	address: (entry, value) => is(entry.from, value) || is(entry.to, value) || entry.record.source.ip === value ||
		entry.record.destination.ip === value,
	proxy: (entry, value) => entry.record.proxy === value,
	port: (entry, value) => String(entry.record.destination.port) === value,
	protocol: (entry, value) => entry.record.protocol.toLowerCase() === value.toLowerCase(),
	verdict: (entry, value) => entry.record.verdict.toLowerCase() === value.toLowerCase(),
	rule: (entry, value) => ruleName(entry.record.rule).includes(value),
};

function is(node, value) {
	return node.name === value || (node.kind === "node" && value === "node");
}

export function ruleName(rule) {
	if (!rule)
		return "";
	const policy = rule.namespace ? `${rule.namespace}/${rule.name}` : rule.name;
	return rule.index < 0 || rule.index === null ? policy : rule.ruleName ? `${policy}: ${rule.ruleName}` : `${policy} #${rule.index}`;
}

function textOf(entry) {
	const {record} = entry;
	return [record.verdict, record.reason, record.event, record.protocol, record.direction, entry.from.name, entry.to.name,
		record.source.ip, record.destination.ip, record.source.port, record.destination.port, record.proxy,
		record.rule && record.rule.kind, ruleName(record.rule), record.process && record.process.name].join(" ").toLowerCase();
}

// A function that says whether an entry is let through.
export function parse(text) {
	const checks = text.trim().split(/\s+/).filter(Boolean).map((word) => {
		const not = word.startsWith("-") && word.length > 1;
		const bare = not ? word.slice(1) : word;
		const colon = bare.indexOf(":");
		const key = colon > 0 && Object.hasOwn(KEYS, bare.slice(0, colon)) ? KEYS[bare.slice(0, colon)] : null;
		const check = key ? (entry) => key(entry, bare.slice(colon + 1)) : (entry) => textOf(entry).includes(bare.toLowerCase());
		return not ? (entry) => !check(entry) : check;
	});
	return (entry) => checks.every((check) => check(entry));
}

export function ofNode(node) {
	if (node.kind === "workload")
		return "workload:" + node.name;
	if (node.kind === "proxy")
		return "proxy:" + node.name;
	return node.kind === "node" ? "from:node" : "address:" + node.name;
}

export function ofEdge(edge) {
	const words = [];
	if (edge.from.kind === "proxy")
		words.push("proxy:" + edge.from.name);
	else
		words.push("from:" + (edge.from.kind === "node" ? "node" : edge.from.name));
	if (edge.to.kind === "proxy")
		words.push("proxy:" + edge.to.name);
	else
		words.push("to:" + edge.to.name);
	return [...words, "verdict:" + edge.verdict].join(" ");
}
