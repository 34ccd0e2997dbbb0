"""What the site takes from elsewhere in the repository: README, results, every command's help, every option; formulas as MathML."""

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
TAKEN = {"README.md": "index.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")}


def on_files(files, config):
    results = (p.relative_to(ROOT) for p in sorted((ROOT / "results").iterdir()))
    for source, target in (*TAKEN.items(), *((str(p), str(p)) for p in results)):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are in the repository become links of the site."""
    here = page.file.src_uri
    if here in TAKEN.values():
        markdown = markdown.replace("](docs/", "](")
    markdown = (
        markdown.replace("](../results/", "](results/").replace("](../docs/", "](../").replace("](../README.md", "](index.md")
    )
    for mark, made in (("<!-- every command -->", _commands), ("<!-- every option -->", _options)):
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def on_page_content(content, page, config, files):
    """LaTeX becomes MathML, which browsers draw themselves."""

    def formula(found):
        return latex2mathml.converter.convert(html.unescape(found[2]), display="block" if found[1] == "[" else "inline")

    content = re.sub(r":(?:class|meth|func|attr):(?=<code>)", "", content)  # docstrings' roles
    return re.sub(r'<(?:span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</(?:span|div)>', formula, content, flags=re.S)


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
            parts.append(f"\n## {here or 'The run'}\n\n| option | default | meaning |\n| --- | --- | --- |")
        parts.append(f"| `{name}` | `{default}` | {meaning.replace('|', '&#124;')} |")
    return "\n".join(parts)
