"""Build README.md (`docs.py readme`) or the site in _docs (`docs.py site`) from the notebooks.

With Quarto on the machine nbdev does both. Without it the same processed notebooks go through nbconvert:
plainer pages, same content. (nbdev's own commands would try to download and install Quarto with sudo.)
"""
import re, shutil, subprocess, sys, tempfile
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter, MarkdownExporter
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.processors import FilterDefaults, add_links
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs
from nbdev.serve_drv import exec_nb


def processed():
    "The folder of notebooks as nbdev processes them for rendering: hidden cells gone, API documentation in."
    refresh_quarto_yml()
    _build_modidx()
    nbdev_sidebar.__wrapped__()
    return proc_nbs(n_workers=2, force=True)


def read(path):
    "A processed notebook with its front matter turned back into a heading."
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        if cell.cell_type == "raw" and cell.source.startswith("---"):
            front = yaml.safe_load(cell.source.strip().strip("-"))
            heading = [f"# {front['title']}"] if "title" in front else []
            if "description" in front: heading.append(f"> {front['description']}")
            cell.update(cell_type="markdown", source="\n\n".join(heading))
        elif "show_doc(" in cell.source and "echo: false" in cell.source: # the documentation without the call that made it
            text = "\n\n".join(o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {}))
            cell.update(cell_type="markdown", source=re.sub(r"\[source\]\(([^)]*)\)\{[^}]*\}", r"[source](\1)", text))
        elif cell.cell_type == "code": cell.source = re.sub(r"^#\s*\|.*\n?", "", cell.source, flags=re.M)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    nb.metadata.update(title=path.stem, language_info={"name": "python", "pygments_lexer": "ipython3"})
    return nb


class WithoutLinks(FilterDefaults):
    "nbdev's processing without links into the site: a README is read where there is no site."
    def base_procs(self): return [p for p in super().base_procs() if p is not add_links]


def markdown(root):
    "index.ipynb as markdown, its pictures in index_files."
    with tempfile.TemporaryDirectory() as tmp:
        exec_nb(get_config().nbs_path/"index.ipynb", Path(tmp)/"index.ipynb", WithoutLinks)
        nb = read(Path(tmp)/"index.ipynb")
    text, resources = MarkdownExporter().from_notebook_node(nb, {"output_files_dir": "index_files"})
    for name, data in resources["outputs"].items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def readme(root):
    page = root/"README.md"
    if shutil.which("quarto"):
        subprocess.run(["nbdev_readme"], check=True)
        text = page.read_text(encoding="utf-8")
    else: text = markdown(root)
    page.write_text(re.sub(r"\]\((?!\w+:)([\w/-]+\.(?:ipynb|png))", r"](nbs/\1", text), encoding="utf-8")
    print(page)


def site(root):
    if shutil.which("quarto"): return subprocess.run(["nbdev_docs"], check=True)
    cfg = get_config()
    source, out, home = processed(), cfg.doc_path, f"{cfg.doc_host}{cfg.doc_baseurl}/"
    shutil.rmtree(out, ignore_errors=True)
    pages = sorted(p.relative_to(source) for p in source.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    pages.sort(key=lambda p: (p.name != "index.ipynb", len(p.parts), p))
    def html_name(stem): return re.sub(r"^\d+[a-z]?_", "", stem) + ".html"
    name = {p: p.with_name(html_name(p.stem)) for p in pages}
    for p in pages:
        up = "../"*(len(p.parts) - 1)
        nb = read(source/p)
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = re.sub(r"\]\((?!\w+:)([\w./]*?)([\w-]+)\.ipynb", lambda m: f"]({m[1]}{html_name(m[2])}", cell.source)
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(" · ".join(f"[{name[q].with_suffix('')}]({up}{name[q].as_posix()})" for q in pages)))
        html, _ = HTMLExporter(embed_images=True).from_notebook_node(nb, {"metadata": {"path": str((source/p).parent)}})
        (out/name[p]).parent.mkdir(parents=True, exist_ok=True)
        (out/name[p]).write_text(html.replace(home, up), encoding="utf-8")
    shutil.copytree(source/"images", out/"images")
    print(f"{len(pages)} pages in {out}")


if __name__ == "__main__":
    {"readme": readme, "site": site}[sys.argv[1]](Path(get_config().config_path))
