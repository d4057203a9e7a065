// The candidates as a table; a row is chosen by a click or, in the first column, with the arrow keys.
let tables = 0;

const cell = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

function meter(value) {
  const td = document.createElement("td"), m = Object.assign(document.createElement("meter"), { min: 0, max: 1, value });
  m.setAttribute("aria-hidden", "true");
  td.append(m, cell("span", value.toFixed(2)));
  return td;
}

export default {
  render({ model, el }) {
    el.classList.add("mgpt-ranking");
    const group = `mgpt-rank-${++tables}-${Math.random().toString(36).slice(2)}`;
    const choose = (i) => { if (i !== model.get("chosen")) { model.set("chosen", i); model.save_changes(); } };

    function row(values, i) {
      const tr = document.createElement("tr"), first = document.createElement("th");
      first.scope = "row";
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: group, checked: i === model.get("chosen") });
      radio.setAttribute("aria-label", `candidate ${i + 1}`);
      radio.addEventListener("change", () => choose(i));
      first.append(radio, ` ${i + 1}`);
      tr.append(first, ...values.map((v, j) => (model.get("meters").includes(j) ? meter(v) : cell("td", v))));
      tr.addEventListener("click", () => { radio.checked = true; choose(i); });
      return tr;
    }

    function mark() {
      el.querySelectorAll("tbody tr").forEach((tr, i) => { tr.classList.toggle("mgpt-chosen", i === model.get("chosen")); tr.querySelector("input").checked = i === model.get("chosen"); });
    }

    function fill() {
      const table = document.createElement("table"), head = document.createElement("tr"), body = document.createElement("tbody");
      table.append(cell("caption", model.get("label")), document.createElement("thead"), body);
      head.append(...["rank", ...model.get("columns")].map((c) => Object.assign(cell("th", c), { scope: "col" })));
      table.tHead.append(head);
      body.append(...model.get("rows").map(row));
      el.replaceChildren(...(model.get("rows").length ? [table] : []));
      mark();
    }

    model.on("change:rows", fill);
    model.on("change:chosen", mark);
    fill();
    return () => { model.off("change:rows", fill); model.off("change:chosen", mark); };
  },
};
