"""The rendered solutions and their index: pages that need no network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from detour.bases.families import FAMILIES
from detour.errors import ConfigError, DetourError, MissingExtra
from detour.files import write_bytes, write_text
from detour.labs.execution import Executed
from detour.labs.index import LABS, RAN, Lab
from detour.labs.needs import CardNeed
from detour.labs.sources import base_of, notebook_of

MEASURED = "measured.json"


class Measured(BaseModel):
    """What a lab took here, and what it would take on a GPU; what the index shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_seconds: float
    peak_bytes: int
    shared: bool
    """Whether other work took CPU time of the machine meanwhile, so that the seconds are an upper limit."""
    need: CardNeed | None


_ALL = TypeAdapter(dict[int, Measured])

PAGE = Path(__file__).with_name("page.html")
MAX_PAGE_BYTES = 700_000

OUTPUT = re.compile(r'(<div class="output_subarea[^>]*>\s*)<pre>(.*?</pre>)', re.DOTALL)
COLUMNS = re.compile(r"\S {2,}\S")
"""What tells a table from sentences: several spaces inside a line."""

SIDES = {
    "adapter": "From the adapter's side",
    "proof": "From the proof's side",
    "diffusion": "From the diffusion's side",
    "service": "From the service's side",
}


def page_of(
    lab: Lab,
    notebook: Any,
    executed: Executed | Measured,
    *,
    base: str,
    tasks: Mapping[str, str] | None = None,
) -> str:
    """One executed notebook as HTML, pictures inside.

    Args:
        lab: whose it is.
        notebook: executed.
        executed: what it took.
        base: that it ran on.
        tasks: cell → what is handed out in place of its answer; the answers are folded away below it.

    Raises:
        MissingExtra: nbconvert is not installed.
        DetourError: the page is too large, or a picture has no words for those who cannot see it.
    """
    try:
        from nbconvert import HTMLExporter
        from pygments.formatters import HtmlFormatter
    except ModuleNotFoundError as error:
        raise MissingExtra("rendering labs needs nbconvert: pip install 'detour-lora[labs]'.") from error
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    body = with_marked_columns(with_folded_solutions(body, lab, tasks or {}))
    for picture in re.findall(r"<img[^>]*>", body):
        if not re.search(r'alt="[^"]{10,}"', picture) or "No description" in picture:
            raise DetourError(f"{lab.name}: a picture has no alt text. Use show(…, alt=…) of detour.labs.")
    text = Template(PAGE.read_text(encoding="utf-8")).render(
        title=f"Lab {lab.number}. {lab.title}",
        highlight=HtmlFormatter(style="default").get_style_defs(".highlight"),
        base=base,
        seconds=f"{executed.core_seconds:.0f}",
        memory=gib(executed.peak_bytes),
        body=body,
    )
    if len(text.encode()) > MAX_PAGE_BYTES:
        raise DetourError(
            f"{lab.name}: its page has {len(text.encode()):,} bytes, {MAX_PAGE_BYTES:,} are allowed. Show fewer or "
            "smaller pictures."
        )
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def tasks_of(lab: Lab) -> dict[str, str]:
    """Cell → what the exercise hands out, for every cell of a lab that holds an answer."""
    pairs = zip(notebook_of(lab, "exercise").cells, notebook_of(lab, "solution").cells, strict=True)
    return {
        exercise.id: exercise.source for exercise, solution in pairs if exercise.source != solution.source
    }


def with_folded_solutions(body: str, lab: Lab, tasks: Mapping[str, str]) -> str:
    """The page with each answer folded away below its task as it is handed out.

    Args:
        body: of nbconvert's basic template.
        lab: for the message.
        tasks: as :func:`tasks_of` gives them.

    Raises:
        DetourError: a cell with an answer is not found in the page.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    for cell, source in tasks.items():
        begin = body.find('<div class="input">', body.find(f'id="cell-id={cell}"'))
        end = body.find('<div class="output_wrapper">', begin)
        if min(begin, end) < 0:
            raise DetourError(f"{lab.name}: the page has no {cell} with an answer and its outputs.")
        kind = "What somebody expected" if source.startswith("predict(") else "Solution"
        task = highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight"))
        body = (
            f'{body[:begin]}<div class="input">{task}</div>\n<details class="solution"><summary>{kind}</summary>\n'
            f"{body[begin:end]}</details>\n{body[end:]}"
        )
    return body


def with_marked_columns(body: str) -> str:
    """The page with a class on every output that has columns; on a phone these are scrolled, and sentences wrap.

    Args:
        body: of nbconvert's basic template.
    """

    def marked(found: re.Match[str]) -> str:
        lines = found[2].removesuffix("</pre>").splitlines(keepends=True)
        if not any(map(_has_columns, lines)):
            return found[0]
        kept = [line if _has_columns(line) else f'<span class="sentence">{line}</span>' for line in lines]
        return f'{found[1]}<pre class="columns">{"".join(kept)}</pre>'

    return OUTPUT.sub(marked, body)


def _has_columns(line: str) -> bool:
    return COLUMNS.search(line.replace("Measured:     ", "Measured: ")) is not None


def measured_labs(folder: Path) -> dict[int, Measured]:
    """What was rendered into ``folder`` so far; empty where nothing was.

    Raises:
        ConfigError: the file is not one that :func:`write_measured` wrote.
    """
    path = folder / MEASURED
    if not path.is_file():
        return {}
    try:
        return _ALL.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path}: not as it was written. Delete it, and render every lab again.") from error


def write_measured(folder: Path, measured: Mapping[int, Measured]) -> None:
    """Write the figures, and the index that is made of them."""
    rows = {number: measured[number] for number in sorted(measured)}
    write_bytes(folder / MEASURED, _ALL.dump_json(rows, indent=2) + b"\n")
    write_text(folder / "README.md", index_page(rows))


def index_page(measured: Mapping[int, Measured]) -> str:
    """``docs/labs/README.md``: what there is, what it took, what it would take."""
    lines = [
        "# Labs",
        "",
        "Notebooks that run: offline on the embedded base, on Stable Diffusion 1.5 by changing one line. Every lab",
        "goes the same way: what you will see, predict, reason, do, check, reflect. The checks say what is wrong, why,",
        "and a hint. The links below lead to the solutions; to work, open the exercise:",
        "",
        "```",
        "pip install -e '.[labs]'     # make setup installs it too",
        "detour labs list",
        "detour labs open 9           # writes labs/lab09.ipynb; open it in Jupyter or an editor",
        "detour labs hint 9 jump      # the direction; again with --step 2 the formula, with --step 3 the code",
        "detour labs check labs/lab09.ipynb",
        "```",
        "",
        "[What the checks accept and catch](graders.md) is counted for every task.",
        "",
        "On another base (`detour labs open 9 --base pocket-flow`; `--judge` where it brings no judge) the figures are",
        "others: on one of photographs a style takes hundreds of steps, where two dozen do here. What no weights",
        "decide (shapes, counts, formulas, what must draw the same bytes) is checked there as here.",
        "",
        *_families(),
        "",
    ]  # fmt: skip
    for side, heading in SIDES.items():
        labs = [lab for lab in LABS if lab.side == side and lab.number in measured]
        if labs:
            lines += [f"## {heading}", "", *_table(labs, measured), ""]
    card = next((one.need.card for one in measured.values() if one.need), "a 16 GB card without bf16")
    total = sum(one.core_seconds for one in measured.values())
    others = [
        f"lab {lab.number} on `{base_of(lab)}`"
        for lab in LABS
        if base_of(lab) != "pocket" and lab.number in measured
    ]
    note = f" ({', '.join(others)})" if others else ""
    lines += [
        "Seconds and memory were measured by `python -m detour.labs.building --render docs/labs` on `pocket`"
        f"{note}: seconds",
        f"of one CPU core, from the kernel's start to the last cell; {total:.0f} s together. {_of_shared(measured)}",
        "The last column is what [`detour plan`](../cli.md) predicts for Stable Diffusion 1.5 at 512 px on",
        f"{card}; it was not measured.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _families() -> list[str]:
    """Which labs a family's bases are taken by, and which of them were run on one, as a table."""
    lines = [
        "| family of the base | labs that take it | of these, seen to pass every check on a random folder |",
        "|---|---|---|",
    ]
    for name, passed in RAN.items():
        taken = [lab.number for lab in LABS if name in lab.families]
        lines.append(f"| {FAMILIES[name].title} | {_listed(taken)} | {_listed(passed)} |")
    return [
        *lines,
        "",
        "The rest of a row was not run. `detour labs open`, `run` and `check` refuse a base of another family with the",
        "cause, before it is loaded.",
    ]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _of_shared(measured: Mapping[int, Measured]) -> str:
    """The sentence that says which figures were taken beside other work."""
    alone = [f"{number}" for number, one in measured.items() if not one.shared]
    if len(alone) == len(measured):
        return "Nothing else ran beside them."
    some = f"; lab{'s' * (len(alone) > 1)} {', '.join(alone)} ran alone" if alone else ""
    return f"Figures with *at most* were taken while other\nwork shared the caches and cores, which adds seconds{some}."


def _table(labs: Sequence[Lab], measured: Mapping[int, Measured]) -> list[str]:
    rows = ["| lab | what it is about | on pocket | on a 16 GB GPU without bf16 |", "|---|---|---|---|"]
    for lab in labs:
        one = measured[lab.number]
        here = f"{'at most ' * one.shared}{one.core_seconds:.0f} s, {gib(one.peak_bytes)}"
        there = f"{gib(one.need.bytes)}: {one.need.words}" if one.need else "reads settings alone"
        rows.append(f"| {lab.number}. [{lab.title}]({lab.name}.html) | {lab.about} | {here} | {there} |")
    return rows


def gib(count: int) -> str:
    """``1.3 GiB``."""
    return f"{count / 2**30:.1f} GiB"
