// SPDX-License-Identifier: Apache-2.0
// Where data comes from: relative addresses below /ui/. One stream and a few polls, all of them asleep while the page is
// hidden, so that a browser's handful of connections to one host is enough for many tabs.

const PATIENCE = 8000; // ms until an answer must have begun
const AGAIN = 700;     // ms between attempts while the agent is gone

export class Feed {
	// changed(up): called when the agent comes or goes.
	constructor(changed) {
		this.changed = changed;
		this.up = null;
		this.skew = 0; // of the agent's clock, ms
		this.waiting = [];
		document.addEventListener("visibilitychange", () => {
			if (!document.hidden)
				this.waiting.splice(0).forEach((wake) => wake());
			else if (this.stream)
				this.stream.abort();
		});
	}

	now() {
		return Date.now() + this.skew;
	}

	told(up) {
		if (up === this.up)
			return;
		this.up = up;
		this.changed(up);
	}

	seen() {
		return document.hidden ? new Promise((wake) => this.waiting.push(wake)) : null;
	}

	async get(path, control = new AbortController()) {
		const late = setTimeout(() => control.abort(), PATIENCE);
		try {
			const answer = await fetch(path, {signal: control.signal, credentials: "omit"});
			const date = Date.parse(answer.headers.get("Date"));
			if (!Number.isNaN(date) && Math.abs(date - Date.now()) > 3000)
				this.skew = date - Date.now();
			if (!answer.ok)
				throw Object.assign(new Error((await answer.json()).detail), {status: answer.status});
			return answer;
		} finally {
			clearTimeout(late);
		}
	}

	// take(answer) every so often, for ever. main: what tells whether the agent is there.
	async poll(path, every, take, main) {
		for (;;) {
			await this.seen();
			const begun = Date.now();
			try {
				const answer = await this.get(path);
				await take(answer);
				if (main)
					this.told(true);
			} catch (error) {
				if (main)
					this.told(false);
			}
			// What is large is asked for less often.
			const took = Date.now() - begun;
			await pause(this.up === false ? AGAIN : Math.max(every, took * 5));
		}
	}

	// take(record) of each line, for ever; begun() before the first of each connection.
	async follow(path, begun, take, failed) {
		for (;;) {
			await this.seen();
			try {
				this.stream = new AbortController();
				const answer = await this.get(path, this.stream);
				begun();
				await lines(answer.body.getReader(), (line) => take(JSON.parse(line)));
			} catch (error) {
				// Gone, or hidden: told by the poll, and tried again. An answer that is a refusal says why.
				if (error.status)
					failed(`connections are not told: ${error.message}`);
			}
			await pause(AGAIN);
		}
	}
}

function pause(milliseconds) {
	return new Promise((wake) => setTimeout(wake, milliseconds));
}

async function lines(reader, take) {
	const decoder = new TextDecoder();
	let rest = "";
	for (;;) {
		const {value, done} = await reader.read();
		if (done)
			return;
		const parts = (rest + decoder.decode(value, {stream: true})).split("\n");
		rest = parts.pop();
		parts.filter(Boolean).forEach(take);
	}
}

// Prometheus' text as [{name, labels, value}], only of names that are wanted.
export function samples(text, wanted) {
	const found = [];
	for (const line of text.split("\n")) {
		const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
		if (!match || !wanted.has(match[1]))
			continue;
		const labels = {};
		for (const [, name, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
			labels[name] = value.replace(/\\(.)/g, (_, c) => c === "n" ? "\n" : c);
		found.push({name: match[1], labels, value: Number(match[3])});
	}
	return found;
}
