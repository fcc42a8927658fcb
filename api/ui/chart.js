// SPDX-License-Identifier: Apache-2.0
// Connections a second by verdict: what passed above the line, what was refused below it.

import {BIN, SPAN} from "./store.js";
import {svg, show, byId} from "./dom.js";
import {VERDICTS, verdictOf, rate, clock} from "./words.js";

const HEIGHT = 190, LEFT = 36, RIGHT = 6, TOP = 8, BOTTOM = 20;
const PASSED = Object.keys(VERDICTS).filter((name) => !VERDICTS[name].refused);
const REFUSED = Object.keys(VERDICTS).filter((name) => VERDICTS[name].refused);
const BINS = SPAN / BIN;

// A round number at or above value.
function roundUp(value) {
	const power = Math.pow(10, Math.floor(Math.log10(value)));
	return [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= value * 0.999);
}

export class Chart {
	constructor(element, hint) {
		this.element = element;
		this.hint = hint;
		element.addEventListener("pointermove", (event) => {
			this.pointed = event.clientX - element.getBoundingClientRect().left;
			this.read();
		});
		element.addEventListener("pointerleave", () => {
			this.pointed = null;
			this.read();
		});
	}

	update(store, now) {
		this.bins = store.bins;
		this.last = Math.floor(now / BIN);
		const width = this.element.clientWidth || 400;
		const sums = (names) => Math.max(0, ...this.columns().map((bin) => names.reduce((sum, name) => sum + (bin[name] || 0), 0)));
		const perSecond = BIN / 1000;
		const most = [sums(PASSED) / perSecond, sums(REFUSED) / perSecond];
		const up = roundUp(Math.max(most[0], most[1] * 0.6, 1)), down = most[1] ? roundUp(Math.max(most[1], up * 0.2)) : up * 0.2;
		const high = HEIGHT - TOP - BOTTOM, zero = TOP + high * up / (up + down), scale = high / (up + down);
		this.step = (width - LEFT - RIGHT) / BINS;
		const made = [this.axis(width, zero, scale, up, most[1] ? down : 0), this.times(width)];
		made.push(...this.bars(PASSED, zero, -scale / perSecond), ...this.bars(REFUSED, zero, scale / perSecond));
		made.push(svg("line", {class: "zero", x1: LEFT, x2: width - RIGHT, y1: zero, y2: zero}));
		this.element.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
		show(this.element, made);
		this.read();
	}

	columns() {
		return Array.from({length: BINS}, (_, at) => this.bins.get(this.last - BINS + 1 + at) || {});
	}

	bars(names, zero, scale) {
		const base = Array(BINS).fill(zero);
		return names.map((name) => {
			let path = "";
			this.columns().forEach((bin, at) => {
				if (!bin[name])
					return;
				const size = Math.sign(scale) * Math.max(1.5, Math.abs(bin[name] * scale));
				const x = (LEFT + at * this.step).toFixed(2);
				path += `M${x} ${base[at].toFixed(2)}v${size.toFixed(2)}h${Math.max(this.step - 0.6, 0.8).toFixed(2)}v${(-size).toFixed(2)}z`;
				base[at] += size;
			});
			return svg("path", {class: "bar " + name, d: path});
		});
	}

	axis(width, zero, scale, up, down) {
		const marks = [up, up / 2, 0, -down].filter((value, at) => at < 3 || value);
		return marks.map((value) => svg("g", {class: "mark"},
			svg("line", {x1: LEFT, x2: width - RIGHT, y1: zero - value * scale, y2: zero - value * scale}),
			svg("text", {x: LEFT - 6, y: zero - value * scale + 3.5}, String(Math.abs(value)))));
	}

	times(width) {
		return [[0, "10 min ago", "start"], [0.5, "5 min", "middle"], [1, "now", "end"]].map(([at, text, anchor]) =>
			svg("text", {class: "time", x: LEFT + at * (width - LEFT - RIGHT), y: HEIGHT - 5, "text-anchor": anchor}, text));
	}

	// What the pointer is at, in words.
	read() {
		let text = "last 10 minutes";
		if (this.pointed !== null && this.pointed !== undefined) {
			const at = Math.floor((this.pointed - LEFT) / this.step), slot = this.last - BINS + 1 + at;
			const bin = at >= 0 && at < BINS ? this.bins.get(slot) || {} : null;
			if (bin) {
				const parts = Object.keys(VERDICTS).filter((name) => bin[name])
					.map((name) => `${verdictOf(name).glyph} ${rate(bin[name] * 1000 / BIN)} ${name.toLowerCase()}`);
				text = `${clock(slot * BIN)}  ${parts.join("  ") || "nothing"}`;
			}
		}
		if (this.hint.textContent !== text)
			this.hint.textContent = text;
	}
}

// Which colour and glyph is what, with how many there were; for map and chart.
export function legend(store) {
	const totals = store.totals();
	show(byId("legend"), Object.entries(VERDICTS).map(([name, verdict]) => {
		const item = document.createElement("li");
		item.title = verdict.means;
		item.className = name;
		const glyph = document.createElement("b");
		glyph.textContent = verdict.glyph;
		const number = document.createElement("span");
		number.className = "total";
		number.textContent = totals[name] || 0;
		item.append(svg("svg", {viewBox: "0 0 26 8", "aria-hidden": "true"}, svg("path", {class: "edge " + name, d: "M1 4h24"})), glyph,
			" " + name + " ", number);
		return item;
	}));
}
