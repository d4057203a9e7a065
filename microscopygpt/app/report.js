document.documentElement.classList.add("js");
const form = document.getElementById("controls"), box = document.getElementById("rows"), count = document.getElementById("count");
if (form && box) {
  const rows = [...box.children], text = new Map(), heads = [...document.querySelectorAll(".head button")], fold = document.getElementById("unfold");
  const words = r => text.get(r) || text.set(r, r.textContent.toLowerCase()).get(r);
  const shown = () => rows.filter(r => !r.hidden);
  const keep = () => {
    const result = form.elements.result.value, source = form.elements.source ? form.elements.source.value : "";
    const wanted = form.elements.words.value.toLowerCase().split(/\s+/).filter(w => w);
    for (const r of rows) r.hidden = !((!result || (result === "!" ? r.dataset.result !== "solved" : r.dataset.result === result))
      && (!source || r.dataset.source === source) && wanted.every(w => words(r).includes(w)));
    count.textContent = shown().length + " of " + rows.length + " structures";
    document.getElementById("none").hidden = shown().length > 0;
  };
  const value = (r, i) => { const c = r.firstElementChild.children[i]; return "v" in c.dataset ? +c.dataset.v : c.textContent; };
  const sort = (i, way) => {
    const known = r => !(r.firstElementChild.children[i].classList.contains("quiet"));
    const compare = (p, q) => typeof p === "number" ? p - q : p.localeCompare(q, "en", {numeric: true});
    box.append(...rows.slice().sort((r, s) => known(s) - known(r) || (known(r) ? way * compare(value(r, i), value(s, i)) : 0)));
  };
  heads.forEach((b, i) => b.addEventListener("click", () => {
    const way = b.dataset.way === "1" ? -1 : 1;
    heads.forEach(h => { delete h.dataset.way; h.removeAttribute("aria-pressed"); });
    b.dataset.way = way; b.setAttribute("aria-pressed", "true"); sort(i, way);
  }));
  fold.addEventListener("click", () => {
    const open = shown().some(r => !r.open);
    shown().forEach(r => { r.open = open; });
    fold.textContent = open ? "close all shown" : "open all shown";
  });
  form.addEventListener("input", keep);
  form.addEventListener("submit", e => e.preventDefault());
  keep();
}
