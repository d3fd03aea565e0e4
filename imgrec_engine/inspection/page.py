"""An inspection as one self-contained page, with colours for where the cost is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from imgrec_engine.inspection.profile import Inspection, KernelProfile, LineCounters
from imgrec_engine.inspection.source import SourceLine, parts
from imgrec_engine.inspection.text import COLUMNS, cells, kernel_summary, name_of, summary

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2230; --faint: #69707f; --rule: #dfe2e8; --code: #f6f7f9;
        --heat: 232, 120, 20; --waste: 205, 30, 70; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171d; --text: #dfe3ea; --faint: #8d95a5; --rule: #2c323d; --code: #1a1e26;
          --heat: 240, 140, 50; --waste: 240, 80, 110; } }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; background: var(--page); color: var(--text);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: .95rem; color: var(--faint); }
h1, h2, h3 { overflow-wrap: anywhere; } h2, h3, pre, code, td, th { font-family: ui-monospace, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { color: var(--faint); } dd { margin: 0; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; background: var(--code); }
table { border-collapse: collapse; font-size: 12.5px; line-height: 1.55; width: 100%; }
th { color: var(--faint); font-weight: normal; padding: .4rem .7rem; border-bottom: 1px solid var(--rule); }
td { padding: 0 .7rem; } th, td { text-align: right; white-space: nowrap; }
th:last-child, td:last-child { text-align: left; white-space: pre; width: 100%; }
td:first-child { color: var(--faint); }
.heat { background: rgba(var(--heat), var(--part)); } .waste { background: rgba(var(--waste), var(--part)); }
.gap td { border-top: 1px dashed var(--rule); padding: 0; height: 0; }
p { color: var(--faint); }
"""
_LEGEND = (
    "Counts are of warps. <span class='heat' style='--part:.5'>Warm</span>: the line's share of the kernel's "
    "executions, requests and barriers. <span class='waste' style='--part:.5'>Red</span>: more sectors of 32 bytes, or "
    "more turns of the banks of shared memory, than the same bytes need."
)


def as_page(inspection: Inspection) -> str:
    """The page's HTML: no scripts, nothing to fetch, light or dark as the browser prefers."""
    title = f"{inspection.op} on sim"
    body = "\n".join(_body(inspection))
    return (
        f"<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>\n<title>{escape(title)}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(inspection: Inspection) -> Iterator[str]:
    yield f"<h1>{escape(inspection.call)}</h1>"
    yield _definitions(summary(inspection))
    yield from (f"<p>{escape(note)}</p>" for note in inspection.notes)
    yield f"<p>{_LEGEND}</p>"
    for kernel in inspection.kernels:
        yield f"<h2>{escape(name_of(kernel))}</h2>"
        yield _definitions(kernel_summary(kernel))
        most = _most(kernel)
        for part in parts(kernel):
            yield f"<h3>{escape(part.file)}</h3>"
            yield "<div class='scroll'><table>"
            yield "<tr>" + "".join(f"<th>{name}</th>" for name, _ in COLUMNS) + "<th></th></tr>"
            for place, function in enumerate(part.functions):
                if place:
                    yield f"<tr class='gap'><td colspan='{len(COLUMNS) + 1}'></td></tr>"
                yield from (_row(line, most) for line in function)
            yield "</table></div>"


def _definitions(pairs: list[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"


def _most(kernel: KernelProfile) -> LineCounters:
    """The largest count of any line, for each kind that is coloured by its share."""
    lines = kernel.lines.values()
    return LineCounters(
        executions=max((line.executions for line in lines), default=0),
        global_requests=max((line.global_requests for line in lines), default=0),
        barriers=max((line.barriers for line in lines), default=0),
    )


def _row(line: SourceLine, most: LineCounters) -> str:
    counters = line.counters or LineCounters()
    colours = (
        _heat(counters.executions, most.executions),
        _heat(counters.global_requests, most.global_requests),
        _waste(counters.sector_factor),
        "",
        _waste(counters.bank_factor),
        _heat(counters.barriers, most.barriers),
    )
    counts = "".join(f"<td{colour}>{value}</td>" for value, colour in zip(cells(counters), colours, strict=True))
    return f"<tr><td>{line.number}</td>{counts}<td>{escape(line.text or '')}</td></tr>"


def _heat(part: int, whole: int) -> str:
    return f" class='heat' style='--part:{0.08 + 0.52 * part / whole:.2f}'" if part else ""


def _waste(times: float) -> str:
    """No colour up to 5 % more than needed, the deepest from 8 times on."""
    if math.isnan(times) or times <= 1.05:
        return ""
    return f" class='waste' style='--part:{0.15 + 0.5 * min(math.log2(times) / 3, 1):.2f}'"
