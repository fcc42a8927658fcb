// SPDX-License-Identifier: Apache-2.0
// Verdicts and numbers as people read them. A verdict is never only a colour: it has a glyph, a word and a line of its own.

export const VERDICTS = {
	Forwarded: {glyph: "→", means: "passed on", refused: false},
	Intercepted: {glyph: "◆", means: "handed to a proxy", refused: false},
	Audited: {glyph: "?", means: "passed; a policy in audit mode would have refused or intercepted it", refused: false},
	Dropped: {glyph: "✕", means: "refused in silence", refused: true},
	Rejected: {glyph: "⊘", means: "refused with an answer", refused: true},
};

export function verdictOf(name) {
	return VERDICTS[name] || {glyph: "•", means: name, refused: false};
}

export function count(value) {
	if (value < 10000)
		return String(Math.round(value));
	const units = ["k", "M", "G", "T"];
	let at = -1;
	for (; value >= 1000 && at < units.length - 1; at++)
		value /= 1000;
	return value.toFixed(value < 100 ? 1 : 0) + " " + units[at];
}

export function rate(value) {
	if (value < 0.005)
		return "0";
	return value < 10 ? value.toFixed(value < 1 ? 2 : 1) : count(value);
}

export function bytes(value) {
	const units = ["B", "KiB", "MiB", "GiB", "TiB"];
	let at = 0;
	for (; value >= 1024 && at < units.length - 1; at++)
		value /= 1024;
	return (at && value < 100 ? value.toFixed(1) : Math.round(value)) + " " + units[at];
}

export function seconds(value) {
	if (value < 0.001)
		return Math.round(value * 1e6) + " µs";
	if (value < 1)
		return (value * 1000).toFixed(value < 0.01 ? 1 : 0) + " ms";
	if (value < 120)
		return value.toFixed(value < 10 ? 1 : 0) + " s";
	return value < 7200 ? Math.round(value / 60) + " min" : Math.round(value / 3600) + " h";
}

export function clock(time) {
	return new Date(time).toLocaleTimeString("en-GB");
}

export function plural(number, one, many) {
	return count(number) + " " + (number === 1 ? one : many);
}

// An address and a port, IPv6 in brackets.
export function socket(ip, port) {
	if (!port)
		return ip;
	return ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
}
