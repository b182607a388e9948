"""Check the built documentation: python tests/check_site.py SITE

Every internal link and anchor resolves, external links are well-formed, and no page loads fonts, scripts, styles or
pictures from another host.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# elements that load their target instead of linking to it
_LOADED = {"script", "img", "audio", "video", "source", "iframe", "embed", "object", "track"}
_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


class Page(HTMLParser):
    """What a page links to, loads, and has anchors for."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.titles = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Record the links, loaded files and anchors of an element."""
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.titles += tag == "h1"
        loads = tag in _LOADED or (tag == "link" and set(given.get("rel", "").split()) & _RELATIONS)
        for name in ("href", "src", "data", "poster"):
            if name in given:
                (self.loaded if loads else self.links).append(given[name])
        for choice in given.get("srcset", "").split(","):
            if choice.strip():
                self.loaded.append(choice.split()[0])


def faults(site: Path) -> list[str]:
    """The faults of a site, one line each."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        if page.titles != 1 and name.name != "404.html":
            found.append(f"{name}: {page.titles} titles")
        for link in page.loaded:
            if urlsplit(link).netloc or (urlsplit(link).scheme not in ("", "data")):
                found.append(f"{name}: loads {link} from elsewhere")
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                is_address = "." in parts.netloc if parts.scheme == "https" else parts.scheme in ("mailto", "data")
                if not is_address:
                    found.append(f"{name}: {link} is no address")
                continue
            if name.name == "404.html":
                continue  # the error page is served at any address, so its links are absolute
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{name}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link} has no such anchor")
    for path in site.rglob("*.css"):
        for link in re.findall(r"url\([\"']?([^)\"']+)", path.read_text(encoding="utf-8")):
            if urlsplit(link).netloc:
                found.append(f"{path.relative_to(site)}: loads {link} from elsewhere")
    return found


def main() -> int:
    """Prints the faults; returns 1 if there are any."""
    site = Path(sys.argv[1])
    found = faults(site)
    print("\n".join(found) or f"{len(list(site.rglob('*.html')))} pages, and every link leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
