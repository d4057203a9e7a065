// A file from the user's machine, chosen or dropped, sent to the kernel in pieces so that its size does not matter.
const PIECE = 1 << 20;

function build(model, el) {
  el.classList.add("mgpt-picker");
  const zone = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "file", accept: model.get("accept") });
  input.setAttribute("aria-label", model.get("label"));
  const title = Object.assign(document.createElement("span"), { className: "mgpt-title", textContent: model.get("label") });
  const hint = Object.assign(document.createElement("span"), { className: "mgpt-hint", textContent: model.get("hint") });
  const state = Object.assign(document.createElement("span"), { className: "mgpt-state" });
  state.setAttribute("role", "status");
  zone.append(input, title, hint, state);
  el.append(zone);
  return { zone, input, state };
}

// JupyterLab takes single keys for commands, such as M for "make this cell markdown": not while somebody works in the app.
function ownKeys(el) { // the widget is rendered before it has a place in the page
  const waiting = setInterval(() => {
    const app = el.closest(".mgpt-app");
    if (!app) return;
    clearInterval(waiting);
    app.addEventListener("focusin", (e) => e.target.setAttribute("data-lm-suppress-shortcuts", "true"));
    app.dataset.keys = "own";
  }, 50);
  return () => clearInterval(waiting);
}

export default {
  render({ model, el }) {
    const stop = ownKeys(el);
    const { zone, input, state } = build(model, el);
    const waiting = new Map();
    let transfer = 0;

    const received = (message) => { if (message.id) waiting.get(message.id)?.(message.next); };
    const acknowledged = (id) => new Promise((resolve) => waiting.set(id, resolve));
    const show = () => { state.textContent = model.get("status"); };

    async function send(file) {
      if (!file) return;
      if (file.size > model.get("limit")) {
        state.textContent = `${file.name} has ${Math.round(file.size / 1e6)} MB, more than ${Math.round(model.get("limit") / 1e6)} MB: crop it, or save one frame.`;
        return;
      }
      const id = `${model.model_id ?? "picker"}-${Math.random().toString(36).slice(2)}`;
      const mine = ++transfer;
      for (let at = 0; at < file.size || at === 0; at += PIECE) {
        const piece = await file.slice(at, at + PIECE).arrayBuffer();
        if (mine !== transfer) return;
        const answer = acknowledged(id);
        state.textContent = file.size > PIECE ? `${file.name}: ${Math.round((100 * at) / file.size)} %` : `${file.name} …`;
        model.send({ id, name: file.name, size: file.size, at }, undefined, [new DataView(piece)]);
        if ((await answer) === null) return;
      }
      waiting.delete(id);
    }

    input.addEventListener("change", () => { send(input.files[0]); input.value = ""; });
    for (const kind of ["dragenter", "dragover"])
      zone.addEventListener(kind, (e) => { e.preventDefault(); e.stopPropagation(); zone.classList.add("mgpt-over"); });
    for (const kind of ["dragleave", "drop"])
      zone.addEventListener(kind, (e) => { e.preventDefault(); e.stopPropagation(); zone.classList.remove("mgpt-over"); });
    zone.addEventListener("drop", (e) => send(e.dataTransfer.files[0]));
    model.on("msg:custom", received);
    model.on("change:status", show);
    show();
    return () => { stop(); model.off("msg:custom", received); model.off("change:status", show); };
  },
};
