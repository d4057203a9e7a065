// A picture on which one measures a length (two clicks or a drag, or arrow keys) and cuts out a part.
const SVG = "http://www.w3.org/2000/svg";
const TOOLS = [["ruler", "Ruler"], ["crop", "Crop"]];

const html = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e; };
const shape = (tag, attributes) => { const e = document.createElementNS(SVG, tag); for (const k in attributes) e.setAttribute(k, attributes[k]); return e; };
const clamp = (v, high) => Math.min(Math.max(v, 0), high);

function barLength(width) { // a round length of about a quarter of the width, Å
  const rounds = [-1, 0, 1, 2, 3, 4].flatMap((p) => [1, 2, 5].map((m) => m * 10 ** p));
  return rounds.filter((r) => r <= Math.max(width / 3, 0.1)).pop();
}

export default {
  render({ model, el }) {
    el.classList.add("mgpt-pad");
    const buttons = Object.fromEntries(TOOLS.map(([tool, name]) => [tool, html("button", { textContent: name, type: "button" })]));
    const clear = html("button", { textContent: "Clear", type: "button" });
    const bar = html("div", { className: "mgpt-tools" }, ...Object.values(buttons), clear);
    bar.setAttribute("role", "toolbar"); bar.setAttribute("aria-label", "Tools for the micrograph");
    const picture = html("img", { draggable: false });
    const layer = shape("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    const stage = html("div", { className: "mgpt-stage", tabIndex: 0 }, picture, layer);
    stage.setAttribute("role", "application");
    const readout = html("div", { className: "mgpt-readout" });
    readout.setAttribute("role", "status");
    el.append(bar, stage, readout);

    let draft = null, grabbed = null, end = 1, url = null;
    const size = () => ({ rows: model.get("shape")[0] || 1, columns: model.get("shape")[1] || 1 });
    const held = () => draft ?? model.get(model.get("tool") === "ruler" ? "line" : "box");
    const keep = (name, value) => { draft = null; model.set(name, value); model.save_changes(); draw(); };

    function spot(event) {
      const r = layer.getBoundingClientRect(), { rows, columns } = size();
      return [clamp(((event.clientX - r.left) / r.width) * columns, columns), clamp(((event.clientY - r.top) / r.height) * rows, rows)];
    }

    function drawLine(line, unit) {
      const [x1, y1, x2, y2] = line;
      for (const [stroke, width] of [["#000", 4], ["#ffb000", 2]]) layer.append(shape("line", { x1, y1, x2, y2, stroke, "stroke-width": width * unit }));
      [[x1, y1], [x2, y2]].forEach(([cx, cy], i) => layer.append(shape("circle", { cx, cy, r: 4 * unit, fill: i === end ? "#ffb000" : "#fff", stroke: "#000", "stroke-width": unit })));
    }

    function drawBox([x, y, width, height], unit) {
      const { rows, columns } = size();
      layer.append(shape("path", { d: `M0 0H${columns}V${rows}H0Z M${x} ${y}v${height}h${width}v${-height}Z`, fill: "#000", "fill-opacity": 0.5 }));
      layer.append(shape("rect", { x, y, width, height, fill: "none", stroke: "#ffb000", "stroke-width": 2 * unit }));
    }

    function drawScale(unit) {
      const p = model.get("pixel_size"), { rows, columns } = size();
      if (!p) return;
      const length = barLength(columns * p), x = 12 * unit, y = rows - 14 * unit, width = length / p;
      layer.append(shape("rect", { x: x - 5 * unit, y: y - 20 * unit, width: Math.max(width, 44 * unit) + 10 * unit, height: 29 * unit, fill: "#000", "fill-opacity": 0.65 }));
      layer.append(shape("rect", { x, y, width, height: 4 * unit, fill: "#fff" }));
      const label = shape("text", { x, y: y - 5 * unit, fill: "#fff", "font-size": 13 * unit, "font-family": "sans-serif" });
      label.textContent = length < 10 ? `${+length.toPrecision(2)} Å` : `${length / 10} nm`;
      layer.append(label);
    }

    function tell() {
      const p = model.get("pixel_size"), line = model.get("tool") === "ruler" && held(), box = model.get("tool") === "crop" && held();
      const angstrom = (n) => (p ? ` = ${(n * p).toFixed(2)} Å` : "");
      if (line && line.length) { const d = Math.hypot(line[2] - line[0], line[3] - line[1]); readout.textContent = `${d.toFixed(1)} px${angstrom(d)}`; }
      else if (box && box.length) readout.textContent = `${box[2].toFixed(0)} × ${box[3].toFixed(0)} px` + (p ? ` = ${(box[2] * p).toFixed(1)} × ${(box[3] * p).toFixed(1)} Å` : "");
      else readout.textContent = { ruler: "Click both ends of a known length (or use the arrow keys; Enter changes the end).", crop: "Drag over the part to keep (or use the arrow keys, with Shift to resize)." }[model.get("tool")] ?? "";
    }

    function draw() {
      const { rows, columns } = size(), unit = columns / (layer.getBoundingClientRect().width || 400);
      layer.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
      layer.replaceChildren();
      const box = model.get("tool") === "crop" ? held() : model.get("box"), line = model.get("tool") === "ruler" ? held() : model.get("line");
      if (box?.length) drawBox(box, unit);
      drawScale(unit);
      if (line?.length && model.get("tool") === "ruler") drawLine(line, unit);
      stage.dataset.tool = model.get("tool");
      for (const tool in buttons) buttons[tool].setAttribute("aria-pressed", model.get("tool") === tool);
      tell();
    }

    function load() {
      if (url) URL.revokeObjectURL(url);
      const bytes = model.get("image"), { rows, columns } = size();
      el.classList.toggle("mgpt-empty", !bytes?.byteLength);
      url = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : null;
      if (url) picture.src = url; else picture.removeAttribute("src");
      picture.alt = model.get("label");
      stage.setAttribute("aria-label", model.get("label"));
      stage.style.aspectRatio = `${columns} / ${rows}`;
      stage.style.maxWidth = `${Math.round((420 * columns) / rows)}px`;
      draw();
    }

    const corner = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1)];
    const moved = (event) => Math.hypot(event.clientX - grabbed.clientX, event.clientY - grabbed.clientY) > 5;

    stage.addEventListener("pointerdown", (event) => {
      const tool = model.get("tool"), at = spot(event);
      if (!tool) return;
      event.preventDefault(); stage.focus(); stage.setPointerCapture(event.pointerId);
      if (tool === "ruler" && draft) { keep("line", [draft[0], draft[1], ...at]); grabbed = null; return; }
      grabbed = { clientX: event.clientX, clientY: event.clientY, at };
      draft = tool === "ruler" ? [...at, ...at] : [...at, 0, 0];
      draw();
    });
    stage.addEventListener("pointermove", (event) => {
      if (!draft) return;
      const at = spot(event);
      if (model.get("tool") === "ruler") draft = [draft[0], draft[1], ...at]; else if (grabbed) draft = corner([...grabbed.at, ...at]);
      draw();
    });
    stage.addEventListener("pointerup", (event) => {
      if (!draft || !grabbed) return;
      const wide = moved(event);
      if (model.get("tool") === "crop") keep("box", wide ? corner([...grabbed.at, ...spot(event)]).map(Math.round) : []);
      else if (wide) keep("line", [...grabbed.at, ...spot(event)]);
      grabbed = null;
    });

    stage.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], tool = model.get("tool"), { rows, columns } = size();
      if (!tool || !(step || ["Enter", "Escape"].includes(event.key))) return;
      event.preventDefault(); event.stopPropagation();
      const by = Math.max(1, Math.round(columns / 200));
      if (event.key === "Escape") return keep(tool === "ruler" ? "line" : "box", []);
      if (tool === "ruler") {
        const line = held()?.length ? [...held()] : [0.25 * columns, rows / 2, 0.75 * columns, rows / 2];
        if (event.key === "Enter") end = 1 - end; else { line[2 * end] = clamp(line[2 * end] + by * step[0], columns); line[2 * end + 1] = clamp(line[2 * end + 1] + by * step[1], rows); }
        return keep("line", line);
      }
      if (!step) return;
      let [x, y, w, h] = held()?.length ? held() : [0.1 * columns, 0.1 * rows, 0.8 * columns, 0.8 * rows].map(Math.round);
      if (event.shiftKey) { w = clamp(w + by * step[0], columns - x); h = clamp(h + by * step[1], rows - y); }
      else { x = clamp(x + by * step[0], columns - w); y = clamp(y + by * step[1], rows - h); }
      keep("box", [x, y, w, h]);
    });

    for (const tool in buttons) buttons[tool].addEventListener("click", () => { draft = null; model.set("tool", model.get("tool") === tool ? "" : tool); model.save_changes(); });
    clear.addEventListener("click", () => { draft = null; model.set("line", []); model.set("box", []); model.set("tool", ""); model.save_changes(); draw(); });
    const events = [...["image", "shape", "label"].map((n) => [n, load]), ...["tool", "line", "box", "pixel_size"].map((n) => [n, draw])];
    for (const [name, react] of events) model.on(`change:${name}`, react);
    const watcher = new ResizeObserver(draw);
    watcher.observe(stage);
    load();
    return () => { watcher.disconnect(); for (const [name, react] of events) model.off(`change:${name}`, react); if (url) URL.revokeObjectURL(url); };
  },
};
