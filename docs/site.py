"""What the site takes from elsewhere in the repository: README, results, every command's help and
every option; and formulas, as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path

import latex2mathml.converter
import typer
from mkdocs.structure.files import File

from equipoise.cli import app
from equipoise.config import options

ROOT = Path(__file__).parents[1]
#: Files beside docs/, and what they are called in the site.
TAKEN = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CITATION.cff": "CITATION.cff",
}
#: Links as they are in the repository's pages → as they are in the site's.
LINKS = {
    "](../../results/": "](../results/",
    "](../results/": "](results/",
    "](../docs/": "](../",
    "](../README.md": "](index.md",
}
TABLE_HEAD = "| option | default | meaning |\n| --- | --- | --- |"


def on_files(files, config):
    taken = dict(TAKEN)
    for path in sorted((ROOT / "results").iterdir()):
        name = str(path.relative_to(ROOT))
        taken[name] = name
    for source, target in taken.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are in the repository become links of the site."""
    if page.file.src_uri in TAKEN.values():
        markdown = markdown.replace("](docs/", "](")
    longest_first = sorted(LINKS, key=len, reverse=True)
    pattern = "|".join(re.escape(here) for here in longest_first)
    markdown = re.sub(pattern, lambda found: LINKS[found[0]], markdown)
    if "<!-- every command -->" in markdown:
        markdown = markdown.replace("<!-- every command -->", _commands())
    if "<!-- every option -->" in markdown:
        markdown = markdown.replace("<!-- every option -->", _options())
    return markdown


def on_page_content(content, page, config, files):
    """LaTeX becomes MathML, which browsers draw themselves."""

    def formula(found):
        display = "block" if found[1] == "[" else "inline"
        return latex2mathml.converter.convert(html.unescape(found[2]), display=display)

    without_roles = re.sub(r":(?:class|meth|func|attr):(?=<code>)", "", content)
    marked = r'<(?:span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</(?:span|div)>'
    return re.sub(marked, formula, without_roles, flags=re.S)


def _commands() -> str:
    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            context.info_name = f"equipoise {name}"
            parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _options() -> str:
    parts, section = [], None
    for name, default, meaning in options():
        here = name.rpartition(".")[0]
        if here != section:
            section = here
            parts.append(f"\n## {here or 'The run'}\n\n{TABLE_HEAD}")
        parts.append(f"| `{name}` | `{default}` | {meaning.replace('|', '&#124;')} |")
    return "\n".join(parts)
