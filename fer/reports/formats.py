"""A report's document as text for terminals, Markdown, LaTeX and HTML.

The writers of pandas and tabulate mark no best value and leave Markdown, or characters such as ``~`` and ``$`` of a
run's name, as they are; ``tests/promises/test_markup.py`` reads every format back.
"""

from __future__ import annotations

import base64
import html as html_text
import re
from itertools import starmap
from pathlib import Path

from fer.reports.document import Document, Grid

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
    "–": "--", "[": "{[}", "]": "{]}", "|": r"\textbar{}",
}  # fmt: skip
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: bold; padding: .3rem 0 }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd } .r { text-align: right }
th { border-bottom: 2px solid #444 } img { max-width: 100%; height: auto }
"""


def terminal(document: Document) -> str:
    """Render a document for the terminal, in its width and colors."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    with console.capture() as capture:
        for grid in document.grids:
            table = Table(title=Text(grid.title), title_justify="left", title_style="bold")
            for name, side in zip(grid.header, grid.alignment, strict=True):
                table.add_column(Text(name), justify="left" if side == "l" else "right")
            for line in grid.lines:
                table.add_row(*(Text(text, style="bold" if is_best else "") for text, is_best in line))
            console.print(table)
        for note in document.notes:
            console.print(Text(note))
    return capture.get()


def markdown(document: Document) -> str:
    return "\n".join(
        [*map(_markdown_grid, document.grids), *(f"- {_markdown_line(note)}" for note in document.notes), ""]
    )


def _markdown_grid(grid: Grid) -> str:
    rule = ["---" if side == "l" else "---:" for side in grid.alignment]
    lines = [[*map(_markdown, grid.header)], rule, *([_markdown(text) for text, _ in line] for line in grid.lines)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{_markdown(grid.title)}**\n\n{rows}\n"


def _markdown(text: str) -> str:
    """Escape what Markdown, GitHub's with its mathematics and HTML included, would take for more than text.

    Of brackets these are the closing ones that could end the text of a link or begin its address.
    """
    text = html_text.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*|~$]|\](?=[\[(:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _markdown_line(text: str) -> str:
    """Escape Markdown at the beginning of a line, where ``#``, ``1.`` or ``[x]`` have a meaning too."""
    return re.sub(r"^(\d*)([#+=.)-]|\[(?=[ xX]\]))", r"\1\\\2", _markdown(text))


def latex(document: Document) -> str:
    """Render each grid as a ``tabular`` with booktabs, and the notes as comments."""
    comments = [f"% {' '.join(note.split())}" for note in document.notes]
    return "\n".join(["% needs \\usepackage{booktabs}", *map(_latex_grid, document.grids), *comments, ""])


def _latex_grid(grid: Grid) -> str:
    def row(texts: list[str]) -> str:
        return " & ".join(texts) + r" \\"

    return "\n".join([
        f"% {' '.join(grid.title.split())}",
        rf"\begin{{tabular}}{{{grid.alignment}}}",
        r"\toprule",
        row([*map(_latex, grid.header)]),
        r"\midrule",
        *(row([*starmap(_latex_entry, line)]) for line in grid.lines),
        r"\bottomrule",
        r"\end{tabular}",
    ])  # fmt: skip


def _latex_entry(text: str, is_best: bool) -> str:
    return rf"\textbf{{{_latex(text)}}}" if is_best else _latex(text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def html(document: Document) -> str:
    """Render a document as one HTML page that needs no other file."""
    figures = [_html_figure(path) for path in document.figures if path.suffix == ".svg"]
    notes = [f"<li>{html_text.escape(note)}</li>" for note in document.notes]
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f"<title>fer-report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Results</h1>",
        *map(_html_grid, document.grids),
        *figures,
        "<ul>", *notes, "</ul>",
        "</body>\n</html>\n",
    ])  # fmt: skip


def _html_grid(grid: Grid) -> str:
    def row(tag: str, texts: list[str]) -> str:
        fields = zip(grid.alignment, texts, strict=True)
        return "<tr>" + "".join(f'<{tag} class="{side}">{text}</{tag}>' for side, text in fields) + "</tr>"

    def entry(text: str, is_best: bool) -> str:
        return f"<b>{html_text.escape(text)}</b>" if is_best else html_text.escape(text)

    return "\n".join([
        f"<table>\n<caption>{html_text.escape(grid.title)}</caption>",
        f"<thead>{row('th', [*map(html_text.escape, grid.header)])}</thead>\n<tbody>",
        *(row("td", [*starmap(entry, line)]) for line in grid.lines),
        "</tbody>\n</table>",
    ])  # fmt: skip


def _html_figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{html_text.escape(path.stem)}" src="data:image/svg+xml;base64,{data}"></figure>'


RENDERERS = {"terminal": terminal, "markdown": markdown, "latex": latex, "html": html}
