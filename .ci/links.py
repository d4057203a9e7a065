"Every link, anchor and picture of the built site, checked without a network."
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbdev.config import get_config

CARDS = "og:image", "twitter:image" # addresses of the picture that other sites show beside a link
STRAY = re.compile(r"[\s<>`]") # what no address holds
HOST = re.compile(r"[\w-]+(\.[\w-]+)+")


class Page(HTMLParser):
    "What a page refers to, what can be referred to in it, its text, and its pictures without an alternative text."

    def __init__(self, path:Path):
        super().__init__()
        self.ids, self.targets, self.cards, self.words, self.undescribed, self.silent = set(), [], [], [], 0, 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("id"): self.ids.add(attrs["id"])
        self.targets += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        if tag == "meta" and attrs.get("property", attrs.get("name")) in CARDS: self.cards.append(attrs["content"])
        self.undescribed += tag == "img" and "alt" not in attrs
        self.silent += tag in ("script", "style")

    def handle_endtag(self, tag): self.silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.silent: self.words.append(data)


def complaints(site:Path, root:Path)->list:
    "A line for each link that leads nowhere, picture that is missing or undescribed, link shown as it is written."
    pages = {path: Page(path) for path in site.rglob("*.html")}
    found = [] if pages else [f"no pages in {site}"]
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in sorted(set(page.targets)):
            trouble = external(target, root) if urlsplit(target).scheme else internal(target, path, site, pages)
            if trouble: found.append(f"{where}: {target[:120]}: {trouble}")
        missing = [card for card in page.cards if not (site/card.removeprefix(address())).is_file()]
        found += [f"{where}: {card}: no such picture" for card in missing]
        if page.undescribed: found.append(f"{where}: {page.undescribed} pictures without an alternative text")
        shown = re.findall(r"\]\(https?:[^)]*\)", "".join(page.words))
        found += [f"{where}: a link shown as it is written: {written}" for written in shown]
    return found


def address()->str:
    "Where the site will stand."
    return f"{get_config().doc_host}{get_config().doc_baseurl}/"


def internal(target:str, path:Path, site:Path, pages:dict)->str:
    "What is wrong with a link inside of the site, or nothing."
    parts = urlsplit(target)
    file = (path.parent/unquote(parts.path)).resolve() if parts.path else path
    if file.is_dir(): file = file/"index.html"
    if site.resolve() not in file.parents: return "leads out of the site"
    if not file.is_file(): return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and file.suffix == ".html" and anchor not in pages[file].ids: return "no such place on the page"
    return ""


def external(target:str, root:Path)->str:
    "What is wrong with an address elsewhere, as far as can be said from here: in this repository, file and line exist."
    parts = urlsplit(target)
    if parts.scheme in ("data", "mailto"): return ""
    if parts.scheme != "https" or not HOST.fullmatch(parts.netloc) or STRAY.search(target): return "not an address"
    cfg = get_config()
    if target.startswith(address()): return "an address of this site, where a link between pages should be"
    for host in (cfg.git_url, cfg.git_url.replace("github.com", "colab.research.google.com/github")):
        source = f"{host}/blob/{cfg.branch}/"
        if not target.startswith(source): continue
        return missing_source(root/unquote(target.removeprefix(source).partition("#")[0]), parts.fragment)
    return ""


def missing_source(file:Path, fragment:str)->str:
    "What is wrong with a link to a file of this repository, or nothing."
    if not file.is_file(): return "no such file in the repository"
    line = re.fullmatch(r"L(\d+)", fragment)
    if line and int(line[1]) > len(file.read_text(encoding="utf-8").splitlines()): return "no such line in the file"
    return ""
