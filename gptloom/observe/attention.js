/* What the page about attention draws, from the JSON in its element "data". A "word" is a token; a "square" is a table with
   a row for each word that looks and a column for each it looks at. Nothing is fetched. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.tokens.length, layers = data.weights.length, heads = data.heads;
const MEAN = -1;
const now = { layer: layers - 1, head: MEAN, word: data.word, all: true, into: null, order: "score" };
const byId = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/* ---- numbers: base64 of little-endian float16 or float32 ---- */

const HALF = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent === 31 ? (fraction ? NaN : Infinity)
    : exponent ? Math.pow(2, exponent - 15) * (1 + fraction / 1024) : Math.pow(2, -24) * fraction;
  HALF[bits] = bits >> 15 ? -size : size;
}
function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new DataView(bytes.buffer);
}
function singles(text) {
  const view = bytesOf(text);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
/* Square tables are stored as logarithms in float16; of a causal model only what is seen, row by row. */
function squares(text, number) {
  const view = bytesOf(text), out = new Float32Array(number * count * count);
  let from = 0;
  for (let square = 0; square < number; square++)
    for (let row = 0; row < count; row++)
      for (let column = 0, seen = data.causal ? row + 1 : count; column < seen; column++, from += 2)
        out[(square * count + row) * count + column] = HALF[view.getUint16(from, true)];
  return out;
}
function seenIn(row) { return data.causal ? row + 1 : count; }

function readLayer(index) {
  const logs = squares(data.weights[index], heads), weights = new Float32Array(logs.length);
  for (let square = 0; square < heads; square++)
    for (let row = 0; row < count; row++)
      for (let column = 0, at = (square * count + row) * count; column < seenIn(row); column++)
        weights[at + column] = Math.exp(logs[at + column]);
  return { index, logs, weights };
}
function meanOf(weights) {
  const mean = new Float32Array(count * count);
  for (let i = 0; i < weights.length; i++) mean[i % mean.length] += weights[i] / heads;
  return mean;
}
let layer = null, weights = null, taken = null, totals = null, values = null;
function choose() {
  if (!layer || layer.index !== now.layer) {
    layer = readLayer(now.layer);
    totals = data.totals && singles(data.totals[now.layer]);
    values = data.values && singles(data.values[now.layer]);
    taken = data.taken && squares(data.taken[now.layer], 1);
  }
  const size = count * count;
  weights = now.head === MEAN ? meanOf(layer.weights) : layer.weights.subarray(now.head * size, (now.head + 1) * size);
}
function sizeOf(row, column) {
  const at = row * count + column;
  return now.head === MEAN ? Math.exp(taken[at]) : weights[at] * values[now.head * count + column];
}
function scoreOf(row, column) {
  return layer.logs[(now.head * count + row) * count + column] + totals[now.head * count + row];
}
function percent(share) {
  if (share >= 0.9995) return "100 %";
  return share < 1e-6 ? "0 %" : (share < 0.001 ? (100 * share).toFixed(share < 1e-5 ? 4 : 3) : (100 * share).toFixed(1)) + " %";
}
function figure(value) {
  if (!isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size > 0 && size < 0.001) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : size >= 0.01 ? 3 : 4);
}
function spelled(place) { return make("span", { class: "token", title: data.tokens[place][0] }, data.tokens[place][0]); }
function name(place) { return "“" + data.tokens[place][0] + "”"; }

/* ---- the links ---- */

const left = [], right = [];
function wordButton(place, side) {
  const [text, frame, segment] = data.tokens[place];
  const number = make("span", { class: "place" }, String(place)), token = spelled(place);
  const button = make("button", {
    type: "button", class: "word" + (frame ? " frame" : "") + (segment ? " second" : ""),
    tabindex: "-1", "aria-pressed": "false", "aria-label": "word " + place + ", " + text,
    onclick: () => side === "left" ? pick(place) : look(place),
    onmouseenter: () => drawLinks(side === "left" ? { from: place } : { into: place }), onmouseleave: () => drawLinks(),
    onkeydown: (event) => {
      const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: count - 1 }[event.key];
      if (next === undefined || next < 0 || next >= count) return;
      event.preventDefault();
      if (side === "left") pick(next); else look(next);
      (side === "left" ? left : right)[next].focus();
    },
  }, ...(side === "left" ? [token, number] : [number, token]));
  (side === "left" ? left : right).push(button);
  return button;
}
const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
svg.setAttribute("aria-hidden", "true");
function buildLinks() {
  const places = data.tokens.map((_, place) => place);
  const middle = make("div", {}, svg);
  byId("links").append(
    make("div", { class: "head" }, "this word"), make("div"), make("div", { class: "head" }, "looks at"),
    make("div", { class: "words left", role: "group", "aria-label": "words that look" }, ...places.map((p) => wordButton(p, "left"))),
    middle,
    make("div", { class: "words right", role: "group", "aria-label": "words that are looked at" }, ...places.map((p) => wordButton(p, "right"))));
}
const STEPS = 20;
function drawLinks(pointed) {
  const only = pointed || (now.into !== null ? { into: now.into } : now.all ? {} : { from: now.word });
  const width = svg.clientWidth || 100, row = left[0].offsetHeight || 24;
  const paths = Array.from({ length: STEPS + 1 }, () => "");
  const shade = new Float32Array(count);
  for (let from = 0; from < count; from++) {
    if (only.from !== undefined && from !== only.from) continue;
    for (let to = 0; to < seenIn(from); to++) {
      if (only.into !== undefined && to !== only.into) continue;
      const weight = weights[from * count + to], strength = Math.round(STEPS * weight);
      if (only.from !== undefined) shade[to] = weight;
      if (only.into !== undefined) shade[from] = weight;
      if (weight < (only.from === undefined ? 0.02 : 0.002)) continue;
      const y1 = (from + 0.5) * row, y2 = (to + 0.5) * row, bend = width / 2;
      paths[Math.max(strength, 1)] += "M0 " + y1 + "C" + bend + " " + y1 + " " + bend + " " + y2 + " " + width + " " + y2;
    }
  }
  svg.setAttribute("class", only.into !== undefined ? "into" : "");
  svg.replaceChildren(...paths.map((line, step) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", line);
    const least = only.from === undefined && only.into === undefined ? 0.08 : 0.22;
    path.setAttribute("stroke-opacity", String(least + (0.95 - least) * step / STEPS));
    path.setAttribute("stroke-width", String(0.8 + 4 * step / STEPS));
    return path;
  }));
  left.forEach((button, place) => { button.setAttribute("aria-pressed", String(place === now.word)); });
  right.forEach((button, place) => { button.setAttribute("aria-pressed", String(place === now.into)); });
  tint(right, only.from !== undefined ? shade : null, "--accent");
  tint(left, only.into !== undefined ? shade : null, "--warm");
}
function tint(buttons, shade, colour) {
  buttons.forEach((button, place) => {
    button.style.backgroundColor = shade && shade[place] > 0.002
      ? "color-mix(in srgb, var(" + colour + ") " + Math.round(70 * shade[place]) + "%, transparent)" : "";
  });
}

/* ---- the matrix and the overview ---- */

function colours() {
  const style = getComputedStyle(document.documentElement);
  const parts = (property) => style.getPropertyValue(property).trim().match(/[0-9a-f]{2}/gi).map((two) => parseInt(two, 16));
  return { paper: parts("--card"), ink: parts("--accent"), faint: style.getPropertyValue("--faint").trim(),
    text: style.getPropertyValue("--ink").trim(), mark: style.getPropertyValue("--warm").trim() };
}
/* An image of side x side pixels; with fewer pixels than words a pixel shows the largest weight under it. */
function image(square, side, palette) {
  const pixels = new ImageData(side, side), most = new Float32Array(side * side);
  for (let row = 0; row < count; row++)
    for (let column = 0; column < seenIn(row); column++) {
      const at = Math.floor(row * side / count) * side + Math.floor(column * side / count);
      most[at] = Math.max(most[at], square[row * count + column]);
    }
  most.forEach((weight, at) => {
    const strength = Math.sqrt(weight);
    for (let part = 0; part < 3; part++)
      pixels.data[4 * at + part] = palette.paper[part] + (palette.ink[part] - palette.paper[part]) * strength;
    pixels.data[4 * at + 3] = 255;
  });
  const canvas = make("canvas", { width: side, height: side });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.imageSmoothingEnabled = false;
  return context;
}
const grid = { cell: 0, margin: 0 };
function drawMatrix() {
  const canvas = byId("matrix"), palette = colours(), width = canvas.parentElement.clientWidth - 32;
  const labelled = (width - 84) / count >= 11;
  grid.margin = labelled ? 84 : 0;
  grid.cell = Math.max(1, Math.min(28, (width - grid.margin) / count));
  if (grid.cell > 3) grid.cell = Math.floor(grid.cell);
  const side = grid.cell * count, context = sized(canvas, grid.margin + side + 1, grid.margin + side + 1);
  context.drawImage(image(weights, count, palette), grid.margin, grid.margin, side, side);
  context.strokeStyle = palette.faint;
  context.globalAlpha = 0.4;
  context.strokeRect(grid.margin + 0.5, grid.margin + 0.5, side, side);
  context.globalAlpha = 1;
  context.strokeStyle = palette.mark;
  context.strokeRect(grid.margin + 0.5, grid.margin + grid.cell * now.word + 0.5, side, grid.cell);
  if (!labelled) return;
  context.font = Math.min(12, grid.cell) + "px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
  context.textBaseline = "middle";
  data.tokens.forEach(([text], place) => {
    const label = text.length > 10 ? text.slice(0, 9) + "…" : text, at = grid.margin + (place + 0.5) * grid.cell;
    context.fillStyle = place === now.word ? palette.mark : palette.text;
    context.textAlign = "right";
    context.fillText(label, grid.margin - 6, at);
    context.save();
    context.translate(at, grid.margin - 6);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillStyle = palette.text;
    context.fillText(label, 0, 0);
    context.restore();
  });
}
function cellAt(event) {
  const box = byId("matrix").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - grid.margin) / grid.cell);
  const row = Math.floor((event.clientY - box.top - grid.margin) / grid.cell);
  return row >= 0 && row < count && column >= 0 && column < count ? [row, column] : null;
}
function tellCell(event) {
  const cell = cellAt(event);
  byId("cell").textContent = !cell ? "" : cell[0] + " " + name(cell[0]) + " looks at " + cell[1] + " " + name(cell[1]) + ": "
    + (cell[1] < seenIn(cell[0]) ? percent(weights[cell[0] * count + cell[1]]) : "it comes later, and is not seen");
}
const thumbs = { side: 0, gap: 4, margin: 26 };
let thumbnails = null;
function drawOverview() {
  const canvas = byId("overview"), palette = colours(), width = canvas.parentElement.clientWidth - 32;
  const side = Math.max(10, Math.min(64, Math.floor((width - thumbs.margin) / heads) - thumbs.gap));
  const scheme = palette.paper.join() + side;
  if (!thumbnails || thumbnails.scheme !== scheme) {
    thumbnails = { scheme, drawn: [] };
    for (let index = 0; index < layers; index++) {
      const read = readLayer(index), size = count * count;
      for (let head = 0; head < heads; head++)
        thumbnails.drawn.push(image(read.weights.subarray(head * size, (head + 1) * size), Math.min(count, 2 * side), palette));
    }
  }
  thumbs.side = side;
  const step = side + thumbs.gap;
  const context = sized(canvas, thumbs.margin + heads * step, layers * step + 18);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.fillStyle = palette.faint;
  context.textAlign = "right";
  for (let index = 0; index < layers; index++) context.fillText(String(index + 1), thumbs.margin - 7, 18 + (index + 0.5) * step);
  context.textAlign = "center";
  if (side >= 14) for (let head = 0; head < heads; head++) context.fillText(String(head + 1), thumbs.margin + head * step + side / 2, 8);
  thumbnails.drawn.forEach((drawn, index) => {
    const x = thumbs.margin + (index % heads) * step, y = 18 + Math.floor(index / heads) * step;
    const chosen = Math.floor(index / heads) === now.layer && (now.head === MEAN || now.head === index % heads);
    context.drawImage(drawn, x, y, side, side);
    context.strokeStyle = chosen ? palette.mark : palette.faint;
    context.globalAlpha = chosen ? 1 : 0.35;
    context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
    context.globalAlpha = 1;
  });
}
function headAt(event) {
  const box = byId("overview").getBoundingClientRect(), step = thumbs.side + thumbs.gap;
  const head = Math.floor((event.clientX - box.left - thumbs.margin) / step);
  const index = Math.floor((event.clientY - box.top - 18) / step);
  return head >= 0 && head < heads && index >= 0 && index < layers ? [index, head] : null;
}

/* ---- the tables ---- */

function shareCell(share, kind) {
  const bar = make("span", { class: "share " + (kind || "") });
  bar.style.width = Math.max(0, Math.min(100, 100 * share)) + "%";
  return make("td", { class: "shares", "aria-hidden": "true" }, bar);
}
function sortable(order, label, below) {
  const chosen = now.order === order;
  const cell = make("th", { scope: "col", ...(order === "place" ? {} : { class: "right" }) },
    make("button", { type: "button", onclick: () => { now.order = order; drawTable(); byId("sort-" + order).focus(); }, id: "sort-" + order },
      label + (chosen ? (order === "place" ? "\u00a0↑" : "\u00a0↓") : ""), ...(below ? [make("small", {}, below)] : [])));
  if (chosen) cell.setAttribute("aria-sort", order === "place" ? "ascending" : "descending");
  return cell;
}
function drawTable() {
  const from = now.word, rows = [], mean = now.head === MEAN, raw = totals && !mean;
  for (let place = 0; place < seenIn(from); place++)
    rows.push({ place, score: weights[from * count + place], size: values ? sizeOf(from, place) : 0 });
  const most = Math.max(...rows.map((row) => row.size), 1e-30);
  if (now.order !== "place") rows.sort((a, b) => b[now.order] - a[now.order]);
  byId("chosen").replaceChildren("What word " + from + ", ", spelled(from), ", takes from each word");
  byId("told").textContent = (mean
    ? "All heads of layer " + (now.layer + 1) + " together: the mean of their scores" + (values ? ", and the size of the sum of what they take. Choose a head for " + data.formula : "")
    : "Head " + (now.head + 1) + " of layer " + (now.layer + 1) + ". Score: the softmax" + (values ? " of " + data.formula + ". Size: of score × value, as it is added to the word's own state" : "")) + "."
    + (values ? "" : " This model is another library's, which tells no raw scores and no values.");
  byId("table").replaceChildren(
    make("thead", {}, make("tr", {}, sortable("place", "word", "position"), sortable("score", "score", "softmax"), make("td", {}),
      ...(raw ? [make("th", { scope: "col", class: "right" }, "raw\u00a0score", make("small", {}, data.formula))] : []),
      ...(values ? [sortable("size", "size of score\u00a0×\u00a0value", mean ? "‖Σ α·W v‖" : "‖α·W v‖"), make("td", {})] : []))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("td", {}, make("span", { class: "faint" }, row.place + " "), spelled(row.place)),
      make("td", { class: "right" }, percent(row.score)), shareCell(row.score),
      ...(raw ? [make("td", { class: "right" }, figure(scoreOf(from, row.place)))] : []),
      ...(values ? [make("td", { class: "right" }, figure(row.size)), shareCell(row.size / most, "size")] : [])))));
}
/* Bars are as long as their share of ``most``; the row of ``met`` is bold. */
function shareTable(rows, met, most) {
  return make("table", { class: "few" }, make("tbody", {}, ...rows.map(([text, share]) => make("tr", text === met ? { class: "met" } : {},
    make("td", {}, make("span", { class: "token", title: text }, text)), make("td", { class: "right" }, percent(share)), shareCell(share / most)))));
}
function drawExpected() {
  const card = byId("expected"), words = data.words;
  card.hidden = !words || !words.places[now.word].length;
  if (card.hidden) return;
  const place = now.word, met = words.kind === "next" ? (data.tokens[place + 1] || [null])[0] : data.tokens[place][0];
  const titles = { next: "What comes after ", here: "What is expected in place of ", labels: "Labels of " };
  const notes = {
    next: "The likeliest next words after everything up to here" + (place + 1 < count ? "; the one that came is bold." : "."),
    here: "The likeliest words for this place, of a model that sees both sides" + (words.masks.includes(place) ? "." : ". It sees this word too: only [MASK] hides it."),
    labels: "The probability of each label at this place." };
  card.replaceChildren(make("h2", {}, titles[words.kind] + "word " + place + ", ", spelled(place)),
    make("p", { class: "faint" }, notes[words.kind]), shareTable(words.places[place], words.kind === "labels" ? null : met, words.kind === "labels" ? 1 : words.places[place][0][1]));
}
function drawAnswer() {
  const card = byId("answer"), answer = data.answer;
  card.hidden = !answer;
  if (!answer) return;
  card.replaceChildren(make("h2", {}, "It answers: " + answer.said), ...(answer.note ? [make("p", { class: "faint" }, answer.note)] : []),
    shareTable(answer.shares, answer.said, 1));
}

/* ---- what is chosen ---- */

function draw() {
  choose();
  byId("layer").value = String(now.layer);
  byId("head").value = String(now.head);
  byId("all").setAttribute("aria-pressed", String(now.all && now.into === null));
  [...left, ...right].forEach((button) => button.setAttribute("tabindex", "-1"));
  left[now.word].setAttribute("tabindex", "0");
  right[now.into === null ? 0 : now.into].setAttribute("tabindex", "0");
  drawLinks();
  drawMatrix();
  drawTable();
  drawExpected();
  drawOverview();
  let bits = 0;
  for (let column = 0; column < seenIn(now.word); column++) {
    const weight = weights[now.word * count + column];
    if (weight > 0) bits -= weight * Math.log(weight);
  }
  byId("entropy").textContent = "word " + now.word + " spreads over about " + Math.exp(bits).toFixed(1) + (seenIn(now.word) > 1 ? " of " + seenIn(now.word) + " words" : " word");
  const parts = ["layer=" + (now.layer + 1), "head=" + (now.head === MEAN ? "mean" : now.head + 1), "word=" + now.word];
  if (!now.all) parts.push("only");
  try { history.replaceState(null, "", "#" + parts.join("&")); } catch (error) { /* a page without an address of its own */ }
}
function pick(place) {
  const again = !now.all && now.into === null && now.word === place;
  Object.assign(now, { word: place, all: again, into: null });
  draw();
}
function look(place) { now.into = now.into === place ? null : place; draw(); }
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = (text, low, high) => /^[0-9]+$/.test(text || "") && +text >= low && +text <= high ? +text : null;
  const chosen = { layer: whole(given.get("layer"), 1, layers), head: whole(given.get("head"), 1, heads), word: whole(given.get("word"), 0, count - 1) };
  if (chosen.layer !== null) now.layer = chosen.layer - 1;
  if (chosen.head !== null) now.head = chosen.head - 1;
  if (chosen.word !== null) now.word = chosen.word;
  now.all = !given.has("only");
}
function options(select, entries, chosen) {
  select.append(...entries.map(([value, text]) => make("option", { value: String(value) }, text)));
  select.addEventListener("change", () => { chosen(Number(select.value)); draw(); });
}
options(byId("layer"), Array.from({ length: layers }, (_, i) => [i, (i + 1) + " of " + layers]), (value) => { now.layer = value; });
options(byId("head"), [[MEAN, "mean of all " + heads], ...Array.from({ length: heads }, (_, i) => [i, String(i + 1)])], (value) => { now.head = value; });
byId("all").addEventListener("click", () => { now.all = now.into === null ? !now.all : true; now.into = null; draw(); });
byId("matrix").addEventListener("mousemove", tellCell);
byId("matrix").addEventListener("mouseleave", () => { byId("cell").textContent = ""; });
byId("matrix").addEventListener("click", (event) => { const cell = cellAt(event); if (cell) { Object.assign(now, { word: cell[0], all: false, into: null }); draw(); } });
byId("overview").addEventListener("click", (event) => { const found = headAt(event); if (found) { [now.layer, now.head] = found; draw(); } });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { now.all = true; now.into = null; draw(); } });
window.addEventListener("resize", draw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
readAddress();
buildLinks();
drawAnswer();
draw();
/* A long text begins at the chosen word; only the card scrolls, the page stays at its top. */
byId("links").parentElement.scrollTop = left[now.word].offsetTop - byId("links").parentElement.clientHeight / 2;
