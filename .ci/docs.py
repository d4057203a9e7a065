"""Build README.md (`docs.py readme`), build the site in _docs (`docs.py site`), or check its links (`docs.py check`).

nbdev processes the notebooks, `pages.py` finishes them for readers, and Quarto renders them. Where Quarto is not
installed, smalldocs does (`renderer.py`), from the same `_quarto.yml`. nbdev's own commands are not used without
Quarto: they would try to download and install it with sudo.
"""
import re, shutil, subprocess, sys, tempfile
from pathlib import Path

from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, add_links
from nbdev.serve_drv import exec_nb

import links, pages

QUARTO = shutil.which("quarto")
OUT = "_docs"


class WithoutLinks(FilterDefaults):
    "nbdev's processing without links into the site: a README is read where there is no site."
    def base_procs(self): return [p for p in super().base_procs() if p is not add_links]


def markdown(root:Path)->str:
    "index.ipynb as markdown, its pictures in index_files."
    with tempfile.TemporaryDirectory() as folder:
        processed = Path(folder)/"index.ipynb"
        exec_nb(get_config().nbs_path/"index.ipynb", processed, WithoutLinks)
        notebook = pages.plain(processed)
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": "index_files"})
    for name, data in resources["outputs"].items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def readme(root:Path):
    "README.md from nbs/index.ipynb; its links and pictures lead into nbs/."
    page = root/"README.md"
    if QUARTO:
        subprocess.run(["nbdev_readme"], check=True)
        text = page.read_text(encoding="utf-8")
    else: text = markdown(root)
    page.write_text(re.sub(r"\]\((?!\w+:)([\w/-]+\.(?:ipynb|png))", r"](nbs/\1", text), encoding="utf-8")
    print(page)


def site(root:Path):
    "The site: pages, pictures, search."
    source = pages.staged(root)
    shutil.rmtree(source/OUT, ignore_errors=True)
    if QUARTO: subprocess.run([QUARTO, "render", "--no-cache", "--no-execute"], cwd=source, check=True)
    else:
        from renderer import render
        render(source)
    shutil.rmtree(root/OUT, ignore_errors=True)
    shutil.move(source/OUT, root/OUT)
    print(f"{len(list((root/OUT).rglob('*.html')))} pages in {root/OUT}")


def check(root:Path):
    "Every link, anchor and picture of the built site; exits with 1 where one is broken."
    complaints = links.complaints(root/OUT, root)
    print(*complaints, f"{len(complaints)} complaints about links and pictures", sep="\n")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    commands = {"readme": readme, "site": site, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in commands: sys.exit(f"docs.py {'|'.join(commands)}")
    commands[sys.argv[1]](Path(get_config().config_path))
