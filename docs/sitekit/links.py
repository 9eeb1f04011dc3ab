"""Walk a built site: every internal link has its target, and no page needs a network to be read.

python docs/sitekit/links.py docs/_build
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems"]

LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
"""What a browser fetches by itself. Of ``link``, the relations that only inform are left out."""
INFORMING = {"canonical", "next", "prev", "index", "search", "alternate"}


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        for name in ("href", "src"):
            value = values.get(name)
            if value and (tag, name) in LOADED and not INFORMING & set((values.get("rel") or "").split()):
                self.loaded.add(value)
            elif value and tag == "a":
                self.links.add(value)


def problems(site: Path) -> list[str]:
    """A sentence for each link that leads nowhere and each thing that is loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        here = path.relative_to(site.resolve())
        for link in sorted(page.links | page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{here} loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{here} links to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{here} links to {link}, which has no such place")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sentences = problems(folder)
    print(*sentences, f"{len(list(folder.rglob('*.html')))} pages, {len(sentences)} problems", sep="\n")
    sys.exit(1 if sentences else 0)
