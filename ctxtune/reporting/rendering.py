"""A document as files: one HTML page, Markdown, LaTeX and CSV tables, PNG, SVG and PDF figures."""

import base64
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ctxtune.durable_files import write_whole
from ctxtune.reporting.background import begin
from ctxtune.reporting.document import Document, Gallery, Item, Picture, Table, file_stem
from ctxtune.reporting.pages import render
from ctxtune.reporting.style import styled
from ctxtune.text import markdown_cell, markdown_text

PAGE, MARKDOWN, FIGURES, TABLES = "report.html", "report.md", "figures", "tables"
_DOTS_PER_INCH = 200
_PIXELS_PER_INCH = 130  # on the page
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"$\sim$", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$",
          "–": "--", "▲": r"$\uparrow$", "▼": r"$\downarrow$", "●": r"$\bullet$", "†": r"$\dagger$"}  # fmt: skip


_FIGURES = re.compile(r"[+-](inf|nan|[\d.,eE%±()\[\]; +-]*)")


@dataclass(frozen=True)
class ReportFiles:
    """What a report left on disk."""

    folder: Path
    page: Path
    markdown: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]


def write_document(document: Document, folder: Path, *, processes: int = 1) -> ReportFiles:
    """Write all files of a document below `folder`, made where it is missing; files of the same name are replaced.

    `processes`: with 2, half of the figures are drawn by another one (see `background.begin`).
    """
    for below in (folder / FIGURES, folder / TABLES):
        below.mkdir(parents=True, exist_ok=True)
    drawn = _save_figures(document.pictures, folder / FIGURES, processes)
    written = [path for table in document.tables for path in _save_table(table, document.study, folder / TABLES)]
    written += [_save_records(table, folder / TABLES) for table in document.attached]
    images = {name: _data_address(paths[1], "image/svg+xml") for name, paths in drawn.items()}
    widths = {name: _page_width(paths[1]) for name, paths in drawn.items()}
    page, text = folder / PAGE, folder / MARKDOWN
    write_whole(page, render("report.html.j2", document=document, images=images, widths=widths))
    write_whole(text, markdown(document))
    return ReportFiles(folder, page, text, tuple(written), tuple(path for paths in drawn.values() for path in paths))


def markdown(document: Document) -> str:
    """The document as Markdown, with figures by reference."""
    lines = [f"# {markdown_text(document.title)}", "", markdown_text(document.subtitle), ""]
    lines += [f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in document.facts.items()]
    lines += ["", *(f"> {markdown_text(finding)}\n>" for finding in document.findings)]
    for section in document.sections:
        lines += ["", f"## {markdown_text(section.title)}"]
        for item in section.items:
            lines += ["", _markdown_item(item)]
    return "\n".join([*lines, "", *map(markdown_text, document.notes), ""])


def _markdown_item(item: Item) -> str:
    if isinstance(item, str):
        return markdown_text(item)
    if isinstance(item, Gallery):
        return f"{markdown_text(item.caption)} The pictures are on the page, [{PAGE}]({PAGE})."
    if isinstance(item, Picture):
        caption = markdown_text(item.caption)
        return f"![{caption}]({FIGURES}/{item.name}.png)\n\n{caption}"
    return markdown_table(item)


def markdown_table(table: Table) -> str:
    """A table as Markdown, its caption above."""
    columns = range(len(table.header))
    rule = ["---" if table.is_text(column) else "---:" for column in columns]
    rows = [
        [f"**{cell}**" if index in table.strong and cell else cell for cell in row]
        for index, row in enumerate(table.rows)
    ]
    lines = ["| " + " | ".join(markdown_cell(cell) for cell in row) + " |"
             for row in [table.header, rule, *rows]]  # fmt: skip
    note = ["", markdown_text(table.note)] if table.note else []
    return "\n".join([markdown_text(table.caption), "", *lines, *note])


def latex_table(table: Table, study: str = "") -> str:
    """A table for LaTeX with booktabs, in a table environment with caption and label; shrunk where it is too wide.

    `study`: its name goes into the label, so that tables of several studies fit into one paper.
    """
    columns = "".join("l" if table.is_text(column) else "r" for column in range(len(table.header)))
    rows = [
        [rf"\textbf{{{_latex(cell)}}}" if index in table.strong and cell else _latex(cell) for cell in row]
        for index, row in enumerate(table.rows)
    ]
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.caption)}}}",
        rf"\label{{tab:{'-'.join(filter(None, [file_stem(study) if study else '', table.name])).replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row([_latex(title) for title in table.header]),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *([rf"\par\smallskip\footnotesize {_latex(table.note)}"] if table.note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv_table(table: Table) -> str:
    """A table as CSV: full precision and plain names where the table has records, else the texts as shown."""
    buffer = io.StringIO()
    if table.records:
        names = list(dict.fromkeys(name for record in table.records for name in record))
        rows: Sequence[Sequence[object]] = [[record.get(name, "") for name in names] for record in table.records]
    else:
        names, rows = list(table.header), table.rows
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([[_without_formula(cell) for cell in row] for row in [names, *rows]])
    return buffer.getvalue()


def _without_formula(cell: object) -> object:
    """A text that a spreadsheet would compute is marked as text; figures with a sign are left as they are."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not _FIGURES.fullmatch(cell):
        return f"'{cell}"
    return cell


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(cells) + r" \\"
    # After the rule or the end of the row above, these would be read as its argument.
    return "{}" + row if row.lstrip().startswith(("[", "*")) else row


def _latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def _save_records(table: Table, folder: Path) -> Path:
    path = folder / f"{table.name}.csv"
    write_whole(path, csv_table(table))
    return path


def _save_table(table: Table, study: str, folder: Path) -> list[Path]:
    makers: dict[str, Callable[[Table], str]] = {
        ".csv": csv_table,
        ".md": markdown_table,
        ".tex": partial(latex_table, study=study),
    }
    paths = []
    for suffix, make in makers.items():
        path = folder / f"{table.name}{suffix}"
        write_whole(path, make(table))
        paths.append(path)
    return paths


def _save_figures(pictures: Sequence[Picture], folder: Path, processes: int) -> dict[str, list[Path]]:
    """The files of each figure by its name: PNG, SVG and PDF."""
    helped = partial(_save_each, pictures[1::2], folder)
    wait = begin(helped, processes if len(pictures) > 1 else 1)
    _save_each(pictures[::2], folder)
    wait()
    return {picture.name: _figure_paths(picture, folder) for picture in pictures}


def _save_each(pictures: Sequence[Picture], folder: Path) -> None:
    for picture in pictures:
        with styled():
            drawing = picture.draw()
            drawing.draw_without_rendering()
            drawing.set_layout_engine(None)  # laid out once: each format would first do it again
            for path in _figure_paths(picture, folder):
                # No dates: the same numbers give the same bytes.
                dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
                content = io.BytesIO()
                drawing.savefig(content, format=path.suffix[1:], dpi=_DOTS_PER_INCH, metadata=dates)
                write_whole(path, content.getvalue())


def _figure_paths(picture: Picture, folder: Path) -> list[Path]:
    return [folder / f"{picture.name}{suffix}" for suffix in (".png", ".svg", ".pdf")]


def _page_width(drawing: Path) -> int:
    """The width on the page, in pixels, of an SVG file, which says its own in points."""
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', drawing.read_text(encoding="utf-8")[:4000])
    return round(float(found[1]) / 72 * _PIXELS_PER_INCH) if found else 900


def _data_address(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
