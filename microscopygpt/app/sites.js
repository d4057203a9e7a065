// The columns of a micrograph, on its picture and in a list. One of them is chosen: with the mouse, a finger, or keys.
const SVG = "http://www.w3.org/2000/svg";
const INK = "#1c2024";
const NEAR = 14; // screen pixels within which a click means a column
const DEEPEST = 24; // the largest magnification
const MOST_ROWS = 400; // of the list; a longer one is cut, and says so
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HEADINGS = [["call", "call"], ["where", "column, at px"], ["probability", "probability"], ["z", "z"]];
const PATHS = { // outlines of radius 1, by the names that matplotlib gives its markers
  o: "M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0Z",
  s: "M-.95 -.95H.95V.95H-.95Z",
  D: "M0 -1.25L1.25 0L0 1.25L-1.25 0Z",
  "^": "M0 -1.25L1.2 .85L-1.2 .85Z",
  v: "M0 1.25L1.2 -.85L-1.2 -.85Z",
  P: "M-.4 -1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z",
  X: "M-1.1 -.7L-.7 -1.1L0 -.4L.7 -1.1L1.1 -.7L.4 0L1.1 .7L.7 1.1L0 .4L-.7 1.1L-1.1 .7L-.4 0Z",
  ".": "M.45 0A.45 .45 0 1 1 -.45 0A.45 .45 0 1 1 .45 0Z",
};
const outline = (name) => PATHS[name] ?? PATHS.o;
let made = 0;

const html = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e; };
const shape = (tag, attributes) => { const e = document.createElementNS(SVG, tag); for (const k in attributes) e.setAttribute(k, attributes[k]); return e; };
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const whole = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();

function icon({ marker, color }) { // the mark of a call, for legend and list
  const svg = shape("svg", { viewBox: "-2 -2 4 4", "aria-hidden": "true", class: "mgpt-mark" });
  for (const [stroke, width] of [[INK, 1.1], [color, 0.5]]) svg.append(shape("path", { d: outline(marker), fill: "none", stroke, "stroke-width": width }));
  return svg;
}

// JupyterLab takes single keys for commands: not while somebody works here.
function ownKeys(el) { // the widget is rendered before it has a place in the page
  const waiting = setInterval(() => {
    const app = el.closest(".mgpt-app");
    if (!app) return;
    clearInterval(waiting);
    if (app.dataset.keys !== "own") app.addEventListener("focusin", (e) => e.target.setAttribute("data-lm-suppress-shortcuts", "true"));
    app.dataset.keys = "own";
  }, 50);
  return () => clearInterval(waiting);
}

// What the kernel says about the columns, in arrays.
function read(model) {
  const xy = new Float32Array(whole(model.get("xy")).buffer), call = whole(model.get("call")), name = whole(model.get("name"));
  const calls = model.get("calls"), rows = model.get("rows"), texts = new Map(rows.map((r) => [r.site, r]));
  const says = (i) => {
    const row = texts.get(i), label = model.get("names")[name[i]];
    return row ? `${row.where}: ${row.call}${row.detail ? `, ${row.detail}` : ""}${row.probability === null ? "" : `; probability ${row.shown}`}` : `${label}: ${calls[call[i]]}`;
  };
  return { n: call.length, x: (i) => xy[2 * i], y: (i) => xy[2 * i + 1], kind: (i) => calls[call[i]], rows, called: new Set(rows.map((r) => r.site)), says };
}

function picture(model, state, choose) {
  const id = `mgpt-sites-${++made}`;
  const canvas = html("canvas", {});
  canvas.setAttribute("aria-hidden", "true");
  const stage = html("div", { className: "mgpt-stage", tabIndex: 0 }, canvas);
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-describedby", `${id}-keys`);
  const keys = html("div", { className: "mgpt-hint", id: `${id}-keys`, textContent: "Arrow keys go from call to call (with Shift: to any column), Enter chooses. Drag to move, + and − or Ctrl and the wheel to zoom." });
  const button = (text, label, act) => { const b = html("button", { type: "button", textContent: text, title: label, onclick: act }); b.setAttribute("aria-label", label); return b; };
  const bar = html("div", { className: "mgpt-tools" }, button("+", "Zoom in", () => zoom(1.6)), button("−", "Zoom out", () => zoom(1 / 1.6)), button("whole frame", "Show the whole frame", () => { view = { x: 0, y: 0, scale: 1 }; draw(); }));
  bar.setAttribute("role", "toolbar"); bar.setAttribute("aria-label", "Zoom");
  const readout = html("div", { className: "mgpt-readout" });
  readout.setAttribute("role", "status");

  let view = { x: 0, y: 0, scale: 1 }, bitmap = null, cursor = -1, hover = -1, asked = 0, width = 0;
  const fingers = new Map();
  const size = () => ({ rows: model.get("shape")[0], columns: model.get("shape")[1] });
  const unit = () => (width / size().columns) * view.scale; // screen pixels to a pixel of the micrograph
  const screen = (i) => [(state.data.x(i) + 0.5 - view.x) * unit(), (state.data.y(i) + 0.5 - view.y) * unit()];
  const visible = (i) => !model.get("hidden").includes(state.data.kind(i));
  const focus = () => (cursor >= 0 ? cursor : model.get("chosen"));

  function hold() { // the view stays on the frame
    const { rows, columns } = size();
    view.scale = clamp(view.scale, 1, DEEPEST);
    view.x = clamp(view.x, 0, columns * (1 - 1 / view.scale)); view.y = clamp(view.y, 0, rows * (1 - 1 / view.scale));
  }

  function zoom(by, at) { // about a place on the screen
    const i = focus(), height = (width * size().rows) / size().columns;
    const [sx, sy] = at ?? (i >= 0 && i < state.data.n ? screen(i) : [width / 2, height / 2]);
    const x = view.x + sx / unit(), y = view.y + sy / unit();
    view.scale = clamp(view.scale * by, 1, DEEPEST);
    view.x = x - sx / unit(); view.y = y - sy / unit();
    draw();
  }

  function mark(ctx, path, x, y, r, color, line) {
    const ratio = devicePixelRatio || 1;
    ctx.setTransform(ratio * r, 0, 0, ratio * r, ratio * x, ratio * y);
    ctx.lineJoin = "round";
    ctx.strokeStyle = INK; ctx.lineWidth = (line + 2.5) / r; ctx.stroke(path);
    ctx.strokeStyle = color; ctx.lineWidth = line / r; ctx.stroke(path);
  }

  function bar_of(ctx, height) { // a scale bar of a round length
    const p = model.get("pixel_size"), across = (width / unit()) * p;
    const rounds = [-1, 0, 1, 2, 3, 4].flatMap((k) => [1, 2, 5].map((m) => m * 10 ** k)).filter((r) => r <= Math.max(across / 3, 0.1));
    const length = rounds.pop(), long = (length / p) * unit(), label = length < 10 ? `${+length.toPrecision(2)} Å` : `${length / 10} nm`;
    ctx.fillStyle = "rgba(0,0,0,.65)"; ctx.fillRect(7, height - 34, Math.max(long, 44) + 10, 29);
    ctx.fillStyle = "#fff"; ctx.fillRect(12, height - 14, long, 4);
    ctx.font = "13px sans-serif"; ctx.fillText(label, 12, height - 19);
  }

  function ring(ctx, i, r, colours) { // around the chosen column, or the one that the keys are on
    const round = new Path2D(PATHS.o), [x, y] = screen(i), ratio = devicePixelRatio || 1;
    for (const [colour, line] of colours) {
      ctx.setTransform(ratio * r, 0, 0, ratio * r, ratio * x, ratio * y);
      ctx.strokeStyle = colour; ctx.lineWidth = line / r; ctx.stroke(round);
    }
  }

  function paint() {
    asked = 0;
    hold();
    stage.style.touchAction = view.scale > 1 ? "none" : "pan-y"; // a finger scrolls the page until there is something to move
    const ratio = devicePixelRatio || 1, { rows, columns } = size(), height = (width * rows) / columns, data = state.data, marks = model.get("marks");
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
    const ctx = canvas.getContext("2d"), paths = Object.fromEntries(Object.keys(PATHS).map((k) => [k, new Path2D(PATHS[k])]));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = "#000"; ctx.fillRect(0, 0, width, height);
    ctx.imageSmoothingEnabled = unit() < 4;
    if (bitmap) {
      const k = bitmap.width / columns, l = bitmap.height / rows;
      ctx.drawImage(bitmap, view.x * k, view.y * l, bitmap.width / view.scale, bitmap.height / view.scale, 0, 0, width, height);
    }
    const r = clamp((0.75 / model.get("pixel_size")) * unit(), 4, 13);
    for (let i = 0; i < data.n; i++) {
      if (!visible(i)) continue;
      const [x, y] = screen(i);
      if (x < -r || y < -r || x > width + r || y > height + r) continue;
      const { marker, color } = marks[data.kind(i)];
      mark(ctx, paths[marker] ?? paths.o, x, y, r, color, marker === "." ? 1 : 2);
    }
    if (hover >= 0 && hover < data.n) ring(ctx, hover, r + 5, [[INK, 3], ["#fff", 1]]);
    if (cursor >= 0 && cursor < data.n) ring(ctx, cursor, r + 5, [[INK, 5], ["#fff", 2]]);
    const chosen = model.get("chosen");
    if (chosen >= 0 && chosen < data.n) ring(ctx, chosen, r + 8, [[INK, 7], ["#fff", 3.5]]);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    bar_of(ctx, height);
  }

  const draw = () => { if (!asked) asked = requestAnimationFrame(paint); };
  const tell = (i) => { readout.textContent = i >= 0 && i < state.data.n ? state.data.says(i) : "Point at a column; click to choose it."; };

  function spot(event) { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; }

  function nearest([sx, sy]) { // the column under the pointer; a call before what is as expected
    let best = -1, least = NEAR;
    for (let i = 0; i < state.data.n; i++) {
      const [x, y] = screen(i), d = Math.hypot(x - sx, y - sy) - (state.data.called.has(i) && visible(i) ? 3 : 0);
      if (d < least) [best, least] = [i, d];
    }
    return best;
  }

  function beside(from, [dx, dy], any) { // the next column in a direction: near, and not far off the line
    const data = state.data, { rows, columns } = size();
    const x0 = from >= 0 && from < data.n ? data.x(from) : columns * (0.5 - dx * 0.51), y0 = from >= 0 && from < data.n ? data.y(from) : rows * (0.5 - dy * 0.51);
    let best = -1, least = Infinity;
    for (let i = 0; i < data.n; i++) {
      if (i === from || !(any || (data.called.has(i) && visible(i)))) continue;
      const along = (data.x(i) - x0) * dx + (data.y(i) - y0) * dy, aside = Math.abs((data.x(i) - x0) * dy) + Math.abs((data.y(i) - y0) * dx);
      if (along > 1e-6 && along + 2 * aside < least && aside < 2 * along) [best, least] = [i, along + 2 * aside];
    }
    return best;
  }

  function into(i) { // move the view so that a column is in it
    const [x, y] = screen(i), height = (width * size().rows) / size().columns, margin = 24;
    if (x < margin || x > width - margin) view.x = state.data.x(i) - width / unit() / 2;
    if (y < margin || y > height - margin) view.y = state.data.y(i) - height / unit() / 2;
  }

  stage.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], act = { Enter: () => focus() >= 0 && choose(focus()), " ": () => focus() >= 0 && choose(focus()), "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: () => zoom(1e-9) }[event.key];
    if ((!step && !act) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();
    if (act) return act();
    const next = beside(focus(), step, event.shiftKey);
    if (next < 0) return;
    cursor = next;
    into(next); tell(next); draw();
  });

  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    stage.focus({ preventScroll: true }); stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { from: spot(event), at: spot(event), moved: false });
  });
  stage.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId), at = spot(event);
    if (!finger) { const i = nearest(at); if (i !== hover) { hover = i; tell(i); draw(); } stage.style.cursor = i < 0 ? "grab" : "pointer"; return; }
    const other = [...fingers.values()].find((f) => f !== finger);
    if (Math.hypot(at[0] - finger.from[0], at[1] - finger.from[1]) > 5) finger.moved = true;
    if (other) {
      const apart = (p) => Math.hypot(p[0] - other.at[0], p[1] - other.at[1]) || 1;
      const by = apart(at) / apart(finger.at);
      finger.moved = other.moved = true; finger.at = at;
      return zoom(by, [(at[0] + other.at[0]) / 2, (at[1] + other.at[1]) / 2]);
    }
    if (finger.moved) { view.x -= (at[0] - finger.at[0]) / unit(); view.y -= (at[1] - finger.at[1]) / unit(); draw(); }
    finger.at = at;
  });
  const released = (event) => {
    const finger = fingers.get(event.pointerId);
    fingers.delete(event.pointerId);
    if (!finger || finger.moved || event.type !== "pointerup") return;
    const i = nearest(spot(event));
    if (i >= 0) { cursor = i; choose(i); tell(i); }
  };
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, released);
  stage.addEventListener("pointerleave", () => { hover = -1; draw(); });
  stage.addEventListener("wheel", (event) => { if (!event.ctrlKey && !event.metaKey) return; event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), spot(event)); }, { passive: false });

  async function load() {
    const bytes = model.get("image"), { rows, columns } = size();
    stage.setAttribute("aria-label", model.get("label"));
    stage.style.aspectRatio = `${columns} / ${rows}`;
    bitmap = bytes?.byteLength ? await createImageBitmap(new Blob([bytes], { type: "image/png" })) : null;
    draw();
  }
  const watcher = new ResizeObserver(() => { width = stage.clientWidth; draw(); });
  watcher.observe(stage);
  tell(-1);
  const part = html("div", { className: "mgpt-sites-picture" }, bar, stage, readout, keys);
  return { part, load, draw, show: (i) => { if (i >= 0 && i < state.data.n) { into(i); tell(i); } cursor = -1; draw(); }, stop: () => watcher.disconnect() };
}

function list(model, state, choose) {
  const group = `mgpt-site-${made}-${Math.random().toString(36).slice(2)}`;
  const caption = html("caption"), head = html("tr"), body = html("tbody"), rest = html("div", { className: "mgpt-hint" });
  const legend = html("div", { className: "mgpt-legend" });
  legend.setAttribute("role", "group"); legend.setAttribute("aria-label", "Calls that are shown");
  let by = "probability", way = 1;

  function turn(call) {
    const hidden = model.get("hidden");
    model.set("hidden", hidden.includes(call) ? hidden.filter((c) => c !== call) : [...hidden, call]);
    model.save_changes();
  }

  for (const call of model.get("calls")) {
    const b = html("button", { type: "button", onclick: () => turn(call) }, icon(model.get("marks")[call]), html("span"));
    b.dataset.call = call;
    legend.append(b);
  }

  for (const [key, title] of HEADINGS) {
    const b = html("button", { type: "button", textContent: title, title: `Sort by ${title}`, onclick: () => { way = by === key ? -way : 1; by = key; fill(); } });
    const th = html("th", { scope: "col" }, b);
    th.dataset.key = key;
    head.append(th);
  }

  function row(r) {
    const tr = html("tr"), first = html("th", { scope: "row" }), radio = html("input", { type: "radio", name: group, value: r.site, checked: r.site === model.get("chosen") });
    radio.setAttribute("aria-label", `${r.call}, ${r.where}`);
    radio.addEventListener("change", () => choose(r.site));
    first.append(html("div", { className: "mgpt-head" }, radio, icon(model.get("marks")[r.call]), ` ${r.call}`));
    if (r.detail) first.append(html("div", { className: "mgpt-detail", textContent: r.detail }));
    tr.append(first, html("td", { textContent: r.where }), html("td", { textContent: r.shown }), html("td", { textContent: r.z === null ? "" : r.z.toFixed(1).replace("-", "−") }));
    tr.dataset.site = r.site;
    tr.addEventListener("click", (event) => { if (event.target !== radio) choose(r.site); });
    return tr;
  }

  function ordered() {
    const value = (r) => (by === "call" ? model.get("calls").indexOf(r.call) : by === "where" ? r.site : r[by] ?? Infinity);
    return state.data.rows.filter((r) => !model.get("hidden").includes(r.call) || r.by_hand).sort((a, b) => way * (value(a) - value(b)));
  }

  function mark() {
    for (const tr of body.children) { const is = +tr.dataset.site === model.get("chosen"); tr.classList.toggle("mgpt-chosen", is); tr.querySelector("input").checked = is; if (is) { const box = scroll.getBoundingClientRect(), at = tr.getBoundingClientRect(); if (at.top < box.top + 50 || at.bottom > box.bottom) scroll.scrollTop += at.top - box.top - box.height / 2; } }
  }

  function fill() {
    const rows = ordered(), counts = {}, within = body.contains(document.activeElement);
    for (let i = 0; i < state.data.n; i++) counts[state.data.kind(i)] = (counts[state.data.kind(i)] ?? 0) + 1;
    for (const b of legend.children) {
      b.lastChild.textContent = `${b.dataset.call} ${counts[b.dataset.call] ?? 0}`;
      b.setAttribute("aria-pressed", !model.get("hidden").includes(b.dataset.call));
    }
    for (const th of head.children) th.setAttribute("aria-sort", th.dataset.key === by ? (way > 0 ? "ascending" : "descending") : "none");
    caption.textContent = rows.length ? `${rows.length} of ${state.data.n} columns are listed.` : "No column is called anything but expected, or the calls are switched off.";
    rest.textContent = rows.length > MOST_ROWS ? `The first ${MOST_ROWS} are listed; sort, or switch calls off above, to see others. The picture shows all.` : "";
    body.replaceChildren(...rows.slice(0, MOST_ROWS).map(row));
    mark();
    if (within) body.querySelector("input:checked")?.focus({ preventScroll: true });
  }

  const scroll = html("div", { className: "mgpt-sites-rows" }, html("table", {}, caption, html("thead", {}, head), body));
  return { part: html("div", { className: "mgpt-sites-list" }, legend, scroll, rest), fill, mark };
}

export default {
  render({ model, el }) {
    el.classList.add("mgpt-sites");
    const forget = ownKeys(el), state = { data: read(model) };
    const choose = (i) => { if (i !== model.get("chosen")) { model.set("chosen", i); model.save_changes(); } };
    const image = picture(model, state, choose), table = list(model, state, choose);
    el.append(html("div", { className: "mgpt-sites-grid" }, image.part, table.part));
    let waiting = 0;
    const fresh = () => { if (!waiting) waiting = setTimeout(() => { waiting = 0; state.data = read(model); table.fill(); image.draw(); }); };
    const events = [["image", image.load], ["label", image.load], ...["xy", "call", "name", "rows"].map((n) => [n, fresh]), ["hidden", () => { table.fill(); image.draw(); }], ["chosen", () => { table.mark(); image.show(model.get("chosen")); }]];
    for (const [name, react] of events) model.on(`change:${name}`, react);
    image.load(); table.fill();
    return () => { forget(); image.stop(); for (const [name, react] of events) model.off(`change:${name}`, react); };
  },
};
