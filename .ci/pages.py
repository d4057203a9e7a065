"""The notebooks as readers of the site get them.

nbdev processes them: hidden cells gone, documentation of functions in. What it leaves undone is done here, for both
renderers: opening words, alternative texts of pictures, names of frames, plain words in signatures, a button for Colab.
"""
import hashlib, html, os, re, shutil
from pathlib import Path

import nbdev, nbformat, yaml
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

STAGE = "_pages"
WORKERS = 2
QUIET = "ignore:Found cells containing imports" # they run whole, as they are meant to; heard by nbdev's processes
LONGEST_ALT = 220 # characters; a screen reader cannot pause inside
PICTURES = "image/png", "image/jpeg", "image/svg+xml"
FENCE = re.compile(r"```.*?```", re.S)
LINKED_NAME = re.compile(r"\[`([^`\]]+)`\]\([^)]*\)")
NO_PROSE = re.compile(r"\s*([#|<>{]|[-*] |!\[|\d+\. )") # how headings, tables, lists and pictures begin
DESCRIBED_PICTURE = re.compile(r"!\[\]\((\S+)\)\{fig-alt=\"([^\"]*)\"\}")
GIVEN_ALT = re.compile(r"^#\s*\|\s*fig-alt:", re.M)
UNSEEN_CODE = re.compile(r"^#\s*\|\s*echo:\s*false", re.M)
COLAB = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
BUTTON = r"[Open in Colab](\1){.btn .btn-outline-primary .btn-sm .colab}"
FOLDED = "#| code-fold: true\n#| code-summary: Set up in Colab\n"


# nbdev's processing, kept where nothing has changed

def fingerprint()->str:
    "Changes when pages have to be processed again although their notebooks stand as they were: links between them."
    names = (get_config().lib_path/"_modidx.py").read_bytes()
    return hashlib.sha256(names + nbdev.__version__.encode()).hexdigest()


def notebooks(folder:Path)->list:
    "Every notebook below a folder, but for copies that Jupyter keeps."
    return sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def processed()->Path:
    "The folder of notebooks as nbdev processes them for rendering."
    refresh_quarto_yml()
    _build_modidx()
    stamp = Path(get_config().config_path)/"_proc"/".fingerprint"
    known = stamp.is_file() and stamp.read_text() == fingerprint()
    os.environ.setdefault("PYTHONWARNINGS", QUIET)
    folder = proc_nbs(n_workers=WORKERS, force=not known)
    for page in notebooks(folder):
        if not (get_config().nbs_path/page.relative_to(folder)).is_file(): page.unlink()
    stamp.write_text(fingerprint())
    return folder


def staged(root:Path)->Path:
    "The folder to render: processed notebooks, finished for readers, with everything that they show."
    source, stage = processed(), root/STAGE
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(source, stage, ignore=shutil.ignore_patterns(".*", "*.ipynb"))
    for path in notebooks(source):
        name = path.relative_to(source)
        (stage/name).parent.mkdir(parents=True, exist_ok=True)
        opening = opening_words(nbformat.read(get_config().nbs_path/name, 4))
        nbformat.write(finished(nbformat.read(path, 4), opening), stage/name)
    return stage


# What a page still needs

def finished(nb, opening:str=""):
    "A processed notebook with all that nbdev leaves undone."
    if opening: nb.cells.insert(1, nbformat.v4.new_markdown_cell(opening))
    heading, text, sections = front_matter(nb).get("title", ""), "", 0
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            sections += len(re.findall(r"^## ", FENCE.sub("", cell.source), re.M))
            cell.source = COLAB.sub(BUTTON, unlinked(cell.source))
            heading, text = last_heading(cell.source) or heading, cell.source
        elif cell.cell_type == "code":
            describe(cell, alternative(heading, text))
            if "show_doc(" in cell.source and not sections: raise_headings(cell)
            if "google.colab" in cell.source: cell.source = FOLDED + cell.source
    return nb


def front_matter(nb)->dict:
    "Title, description and file name of a processed page."
    first = nb.cells[0]
    raw = first.source.strip() if first.cell_type == "raw" else ""
    return yaml.safe_load(raw.strip("-")) if raw.startswith("---") else {}


def opening_words(original)->str:
    "What a notebook says below its title and subtitle in the same cell; nbdev takes the two and drops the rest."
    first = original.cells[0].source
    if not first.startswith("# "): return ""
    return NbdevLookup().linkify(re.sub(r"^# .*\n*(> .*\n*)?", "", first))


def unlinked(text:str)->str:
    "Markdown with plain names inside code, where a link would be shown as it is written."
    return FENCE.sub(lambda block: LINKED_NAME.sub(r"\1", block[0]), text)


def raise_headings(cell):
    "nbdev documents a name under a heading of the third level; where no section is open, that would skip the second."
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data: data["text/markdown"] = re.sub(r"^### ", "## ", data["text/markdown"], flags=re.M)


# Words for those who do not see the pictures

def last_heading(text:str)->str:
    "The heading that stands over what follows a cell of text."
    found = re.findall(r"^#+\s+(.+)$", FENCE.sub("", text), re.M)
    return plain_words(found[-1]) if found else ""


def plain_words(text:str)->str:
    "Markdown as a voice would read it: without the signs for links, code and emphasis; quotes that end no attribute."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)(\{[^}]*\})?", r"\1", text)
    text = re.sub(r"[*`$\\]|<[^>]+>", "", text)
    return re.sub(r"\s+", " ", text).strip().replace('"', "”").replace("'", "’")


def alternative(heading:str, text:str)->str:
    "The alternative text of a picture: the heading over it, and the last sentences before it, as many as are short."
    paragraphs = [p for p in FENCE.sub("", text).split("\n\n") if p.strip() and not NO_PROSE.match(p)]
    words = plain_words(paragraphs[-1]) if paragraphs else ""
    told = ""
    for sentence in reversed(re.split(r"(?<=[.!?:]) (?=[A-Z`])", words)):
        if len(sentence) + len(told) > LONGEST_ALT: break
        told = f"{sentence} {told}".strip()
    return f"{heading or 'Figure'}: {told.rstrip(':')}" if told else heading or "Figure"


def describe(cell, words:str):
    "Give the pictures and frames that a cell shows a text; those that have one keep it."
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    for data in shown:
        if "text/markdown" in data: data["text/markdown"] = with_alt(unlinked(data["text/markdown"]), words)
        if "text/html" in data: data["text/html"] = with_names(data["text/html"], words)
    pictures = any(kind in data for data in shown for kind in PICTURES)
    if pictures and not GIVEN_ALT.search(cell.source): cell.source = f'#| fig-alt: "{words}"\n{cell.source}'


def with_alt(text:str, words:str)->str:
    "Markdown whose pictures have alternative texts."
    return re.sub(r"!\[\]\(([^)]+)\)(?!\{)", lambda m: f'![]({m[1]}){{fig-alt="{words}"}}', text)


def with_names(text:str, words:str)->str:
    "HTML whose pictures, drawings and frames have names."
    words = html.escape(words, quote=False)
    text = re.sub(r"<img(?![^>]*\balt=)", f'<img alt="{words}"', text)
    text = re.sub(r"<iframe(?![^>]*\btitle=)", f'<iframe title="{words}"', text)
    return re.sub(r"<svg(?![^>]*\b(?:role|aria-hidden)=)", f'<svg role="img" aria-label="{words}"', text)


# For the README

def plain(path:Path):
    "A processed notebook with its front matter turned back into a heading, and without what only a renderer reads."
    nb = nbformat.read(path, 4)
    front = front_matter(nb)
    heading = [f"# {front['title']}"] if "title" in front else []
    if "description" in front: heading.append(f"> {front['description']}")
    nb.cells[0].update(cell_type="markdown", source="\n\n".join(heading))
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = DESCRIBED_PICTURE.sub(r"![\2](\1)", cell.source)
        elif UNSEEN_CODE.search(cell.source): cell.update(cell_type="markdown", source=shown(cell))
        elif cell.cell_type == "code": cell.source = re.sub(r"^#\s*\|.*\n?", "", cell.source, flags=re.M)
    nb.cells = [cell for cell in nb.cells if cell.source.strip()]
    nb.metadata.update(language_info={"name": "python", "pygments_lexer": "ipython3"})
    return nb


def shown(cell)->str:
    "The Markdown that a cell displays, without the code that made it."
    return "\n\n".join(output.data.get("text/markdown", "") for output in cell.outputs if "data" in output)
