"""The site without Quarto: smalldocs reads the same `_quarto.yml`, and what Quarto does beyond it is added.

Pages get the name that nbdev gives them (`output-file`), links to the site's address become links between its pages,
and formulas become MathML. Search asks for whole words. Nothing on a page is fetched from another server.
"""
import html, re, shutil
from pathlib import Path, PurePosixPath

from latex2mathml.converter import convert
from smalldocs.config import load
from smalldocs.site import Site

MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
DONE_HERE = "output-file is not read", "html-math-method is ignored" # what smalldocs warns of and this module does
WEB_FONT = re.compile(r"@import url\([^)]*\);")


class NamedSite(Site):
    "A site whose pages have the names of their front matter, and whose address leads to them."

    def read(self, src:PurePosixPath):
        page = super().read(src)
        name = page.front.get("output-file")
        if name: page.out = src.with_name(name)
        return page

    def find_page(self, target:PurePosixPath):
        by_name = {page.out: page for page in self.pages.values()}
        return by_name.get(target) or super().find_page(target)

    def resolve(self, href:str, page, record:bool=True)->str:
        home = self.project.website["site-url"].rstrip("/")
        if href.startswith(f"{home}/"): href = href.removeprefix(home)
        return super().resolve(href, page, record)

    def copy_assets(self, nav):
        super().copy_assets(nav)
        for theme in (self.out/"site_libs"/"themes").glob("*.css"):
            theme.write_text(WEB_FONT.sub("", theme.read_text(encoding="utf-8")), encoding="utf-8")
        shutil.copy(Path(__file__).with_name("search.js"), self.out/"site_libs"/"fuse"/"fuse.min.js")


def with_mathml(page:str)->str:
    "A page whose formulas a browser draws by itself."
    page = re.sub(r'<(link|script)[^>]*katex[^>]*>(</script>)?', "", page)
    def drawn(m): return convert(html.unescape(m[2]).strip(), display="block" if m[1] == "display" else "inline")
    return MATH.sub(drawn, page)


SECTION = r'<a class="(sidebar-item-text sidebar-link text-start)"([^>]*) role="navigation"([^>]*)>(.*?)</a>'
TOGGLE = r'<a class="(sidebar-item-toggle[^"]*)"([^>]*) role="navigation"([^>]*) aria-label="Toggle section">'
MARGIN = '<div id="quarto-margin-sidebar"'
ACCESS = { # what smalldocs 0.5 writes -> what a keyboard and a screen reader need
    r'<nav class="navbar ': '<nav aria-label="Site" class="navbar ',
    r'<nav class="quarto-secondary-nav"': '<nav aria-label="Place" class="quarto-secondary-nav"',
    r'<nav id="quarto-sidebar"': '<nav aria-label="Pages" id="quarto-sidebar"',
    r'<nav class="page-navigation"': '<nav aria-label="Previous and next" class="page-navigation"',
    r'<nav ([^>]*)role="doc-toc"': r'<nav \1aria-label="On this page" role="doc-toc"',
    MARGIN: MARGIN.replace("<div", '<div role="complementary" aria-label="About this page"'),
    r'<i class="(bi [^"]*)" role="img">': r'<i class="\1" aria-hidden="true">',
    SECTION: r'<button type="button" class="\1"\2\3>\4</button>',
    TOGGLE: r'<a class="\1"\2\3 aria-hidden="true">',
    r'<th([^>]*)>(?:\s|&nbsp;)*</th>': r'<td\1></td>',
}


def accessible(page:str)->str:
    "A page whose landmarks and buttons have names, and whose sections open by keyboard."
    for written, wanted in ACCESS.items(): page = re.sub(written, wanted, page, flags=re.S)
    return page


def render(source:Path):
    "Render a folder of processed notebooks, to where its `_quarto.yml` says."
    site = NamedSite(load(source), quiet=True)
    site.build()
    for path in site.out.rglob("*.html"):
        path.write_text(accessible(with_mathml(path.read_text(encoding="utf-8"))), encoding="utf-8")
    for warning in site.warnings:
        if not any(done in warning for done in DONE_HERE): print(warning)
