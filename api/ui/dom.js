// SPDX-License-Identifier: Apache-2.0
// Making elements. Text is always text: nothing here, or anywhere on the page, parses markup that came from data.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
	for (const [name, value] of Object.entries(attributes || {})) {
		if (value === null || value === undefined || value === false)
			continue;
		if (name.startsWith("on"))
			element.addEventListener(name.slice(2), value);
		else
			element.setAttribute(name, value === true ? "" : value);
	}
	element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
	return element;
}

export function html(tag, attributes, ...children) {
	return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
	return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
	return document.getElementById(id);
}

// Replaces the children only when they would look different: focus and selection stay where nothing changed.
export function show(element, ...children) {
	const made = document.createElement("div");
	made.append(...children.flat(9).filter((child) => child));
	if (made.innerHTML !== element.shown) {
		element.shown = made.innerHTML;
		element.replaceChildren(...made.childNodes);
	}
}

// An empty state: what there is to do next, with commands to copy.
export function hint(text, ...commands) {
	return [html("p", null, text), commands.map((command) => html("pre", null, html("code", null, command)))];
}
