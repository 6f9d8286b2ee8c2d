"""Hooks of the documentation site (``mkdocs.yml``).

Some pages are where readers of the repository look for them: README.md, CONTRIBUTING.md, the protocol beside its code.
The hooks add them to the site from there. Links are written for the repository too. Each link is resolved there. It
becomes a link to the page of the site, or to the file in the repository if the site does not have the page. A link to a
missing file is an error.

A built page may not load anything from another site, so the documentation works without a network.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from zray.cli import broker, main, worker

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results.png": "results.png",
    "zray/protocol/SPEC.md": "protocol.md",
}
"""The pages from outside of ``docs``: the file in the repository, and its path in the site."""
ORIGINS = {place: origin for origin, place in PAGES.items()}

COMMANDS = {"zray-broker": broker.main, "zray-worker": worker.main, "zray": main.main}
HELP_COLUMNS = 80
COMMANDS_HERE = "<!-- commands: docs/hooks.py puts the help texts here -->"

LINK = re.compile(r"(?P<open>\]\()(?P<target>[^)\s]+)(?P<close>\))")
FENCE = re.compile(r"^ *(```|~~~)")
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""Elements that make a browser load something, and the attribute with the address."""
NOT_LOADED = ("canonical", "next", "prev")
"""The values of ``rel`` of a ``link`` that loads nothing."""
LOADED_BY_STYLE = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"](?:https?:)?//")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside of ``docs``."""
    for origin, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites the links of a page for the site, and inserts the help texts of the commands."""
    if COMMANDS_HERE in markdown:
        texts = (text for name, command in COMMANDS.items() for text in _help_texts(name, command, None))
        markdown = markdown.replace(COMMANDS_HERE, "\n".join(texts))
    place = page.file.src_uri
    origin = ORIGINS.get(place, f"docs/{place}")
    in_code = False
    lines = []
    for line in markdown.split("\n"):
        if FENCE.match(line):
            in_code = not in_code
        lines.append(line if in_code else LINK.sub(lambda link: _relinked(link, origin, place), line))
    return "\n".join(lines)


def _relinked(link: re.Match[str], origin: str, place: str) -> str:
    target, hash_sign, anchor = link["target"].partition("#")
    if not target or ":" in target:  # within the page, or on another site
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if not (ROOT / path).exists():
        raise PluginError(f"{origin}: the link {link['target']} leads to {path}, which does not exist")
    if path in PAGES:
        found = PAGES[path]
    elif path.startswith("docs/"):
        found = path.removeprefix("docs/")
    else:
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{link['open']}{_repository()}/{kind}/main/{path}{hash_sign}{anchor}{link['close']}"
    relative = posixpath.relpath(found, posixpath.dirname(place) or ".")
    return f"{link['open']}{relative}{hash_sign}{anchor}{link['close']}"


def _help_texts(name: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """Yields a section for a command, and one for each of its sub-commands."""
    settings = command.context_settings | {"terminal_width": HELP_COLUMNS}
    context = click.Context(command, parent=parent, info_name=name, **settings)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for sub_name in command.list_commands(context):
            sub_command = command.get_command(context, sub_name)
            assert sub_command is not None
            yield from _help_texts(sub_name, sub_command, context)


def _repository() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["urls"]["Source"])


def on_post_build(config: Any) -> None:
    """Raises PluginError if a page of the built site loads anything from another site."""
    elsewhere = []
    for path in sorted(Path(config["site_dir"]).rglob("*")):
        name = os.path.relpath(path, config["site_dir"])
        if path.suffix == ".html":
            elsewhere += [f"{name}: {address}" for address in _loaded_by(path.read_text())]
        elif path.suffix == ".css" and LOADED_BY_STYLE.search(path.read_text()):
            elsewhere.append(f"{name}: a style sheet")
    if elsewhere:
        raise PluginError("pages load from other sites: " + "; ".join(elsewhere))


def _loaded_by(page: str) -> list[str]:
    loads = _Loads()
    loads.feed(page)
    return loads.elsewhere


class _Loads(HTMLParser):
    """Collects the addresses on other sites that a page loads from."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(LOADED.get(tag, "")) or ""
        if address.startswith(("http:", "https:", "//")) and given.get("rel") not in NOT_LOADED:
            self.elsewhere.append(address)
