"""The page for people: the group as a picture, drawn here as SVG, that the browser asks for again and again."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cdc.cli.words import count, duration, size
from cdc.errors import CdcError
from cdc.services.lag import Hop, LagReport

_REFRESH_MILLISECONDS = 2000
_ROW = 96
_TOP = 24
_BOX = (200, 62)
_X = (10, 340, 670, 1000)
_WIDTH = 1460

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{group} - cdc</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c2430; --dim: #667080; --box: #f3f5f8; --line: #8a94a6; --page: #fff;
  --ok: #1d8348; --late: #b9770e; --bad: #c0392b; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ef; --dim: #9aa4b2; --box: #222935; --line: #667080;
  --page: #141922; --ok: #58d68d; --late: #f5b041; --bad: #ec7063; }} }}
body {{ margin: 2rem auto; max-width: 1460px; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.3rem; }}
svg {{ width: 100%; height: auto; font: 14px system-ui, sans-serif; }}
svg text {{ fill: var(--ink); }} svg .dim {{ fill: var(--dim); font-size: 12px; }}
svg rect {{ fill: var(--box); stroke: var(--line); }} svg .name {{ font-weight: 600; }}
svg .ok {{ stroke: var(--ok); fill: none; }} svg .late {{ stroke: var(--late); fill: none; }}
svg .bad {{ stroke: var(--bad); fill: none; stroke-dasharray: 6 5; }} svg .unknown {{ stroke: var(--line); fill: none;
  stroke-dasharray: 2 5; }}
svg text.ok {{ fill: var(--ok); stroke: none; }} svg text.late {{ fill: var(--late); stroke: none; }}
svg text.bad {{ fill: var(--bad); stroke: none; }} svg text.unknown {{ fill: var(--dim); stroke: none; }}
.problem {{ color: var(--bad); }} .warning {{ color: var(--late); }} .dim {{ color: var(--dim); }}
#picture.old {{ opacity: .4; }}
</style>
</head>
<body>
<h1>{group}</h1>
<div id="picture">asking everybody ...</div>
<p class="dim"><span id="said"></span> Numbers: <a href="/lag">/lag</a>, <a href="/metrics">/metrics</a>,
<a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a></p>
<script>
const shown = document.getElementById("picture"), said = document.getElementById("said");
let since = Date.now();
async function refresh() {{
  try {{
    const answer = await fetch("/picture", {{ signal: AbortSignal.timeout(10000) }});
    if (!answer.ok) throw new Error("status " + answer.status);
    shown.innerHTML = await answer.text();
    shown.classList.remove("old");
    since = Date.now();
    said.textContent = "Asked at " + new Date().toLocaleTimeString() + ".";
  }} catch (error) {{
    shown.classList.add("old");
    said.textContent = "No answer for " + Math.round((Date.now() - since) / 1000) + " s: what is shown is old.";
  }}
  setTimeout(refresh, {milliseconds});
}}
refresh();
</script>
</body>
</html>
"""


def page(group: str) -> str:
    """The whole page, which fetches the picture by itself."""
    return _PAGE.format(group=escape(group), milliseconds=_REFRESH_MILLISECONDS)


def picture(report: LagReport | CdcError, age_seconds: float = 0.0) -> str:
    """An SVG, and below it what a person should know. An error says why there is nothing to draw."""
    if isinstance(report, CdcError):
        return f'<p class="problem">{escape(str(report))}</p>'
    height = max(1, len(report.followers)) * _ROW + _TOP
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="group {escape(report.group)}">'
    return "\n".join([head, *_drawn(report), "</svg>", *_told(report, age_seconds)])


def _drawn(report: LagReport) -> Iterator[str]:
    """Leader, capture and log in the middle of the height, then the followers one below the other."""
    middle = _TOP + max(0, len(report.followers) - 1) * _ROW / 2
    leader, capture, log = report.leader, report.capture, report.log
    slot = f"slot keeps {size(leader.retained_bytes)}, {leader.wal_status}" if leader else "unreachable"
    yield _box(_X[0], middle, report.leader_name, "leads" + (f" epoch {report.epoch}" if report.epoch else ""), slot)
    yield from _arrow(_X[0], middle, _X[1], middle, capture)
    yield _box(_X[1], middle, "capture", capture.state or "not known", f"at {capture.position}")
    yield from _arrow(_X[1], middle, _X[2], middle, log)
    yield _box(_X[2], middle, "log", "unreachable" if report.log_problem else "durable in Kafka", f"at {log.position}")
    for row, hop in enumerate(report.followers):
        y = _TOP + row * _ROW
        yield from _arrow(_X[2], middle, _X[3], y, hop)
        yield _box(_X[3], y, hop.name, hop.shown_state, f"at {hop.position}")
        yield from _beside(_X[3] + _BOX[0] + 16, y, hop)


def _box(x: float, y: float, *lines: str) -> str:
    texts = "".join(
        f'<text x="{x + 12}" y="{y + 20 + 17 * n}" class="{"dim" if n else "name"}">{escape(line[:30])}</text>'
        for n, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="8"/>{texts}'


def _arrow(x: float, y: float, to_x: float, to_y: float, hop: Hop) -> Iterator[str]:
    """From the right side of one box to the left side of another, with the lag of the hop."""
    grade, label = _grade(hop), _lag(hop.lag_seconds, hop.lag_bytes)
    x, y, to_y = x + _BOX[0], y + _BOX[1] / 2, to_y + _BOX[1] / 2
    bend = x + 16
    tip = f"M{to_x - 9} {to_y - 5} L{to_x} {to_y} L{to_x - 9} {to_y + 5}"
    yield f'<path class="{grade}" stroke-width="2.5" d="M{x} {y} L{bend} {y} L{bend} {to_y} L{to_x} {to_y}"/>'
    yield f'<path class="{grade}" style="stroke-dasharray:none" stroke-width="2.5" d="{tip}"/>'
    yield f'<text class="{grade}" x="{to_x - 6}" y="{to_y - 9}" text-anchor="end">{escape(label)}</text>'


def _beside(x: float, y: float, hop: Hop) -> Iterator[str]:
    """What else is known of a follower, to the right of its box."""
    if hop.problem:
        return
    total = "? s" if hop.total_seconds is None else f"{hop.total_seconds:.1f} s"
    lines = ["shows all that the leader has" if total == "0.0 s" else f"readers see the leader of {total} ago"]
    if hop.records:
        lines.append(f"{count(hop.records)} records to apply")
    if hop.catch_up_seconds:
        lines.append(f"caught up in {duration(hop.catch_up_seconds)} at this rate")
    if hop.is_very_late and hop.retention_left_seconds is not None:
        lines.append(f"the log keeps them for {duration(hop.retention_left_seconds)}")
    for n, line in enumerate(lines):
        yield f'<text class="dim" x="{x}" y="{y + 20 + 17 * n}">{escape(line)}</text>'


def _lag(seconds: float | None, pending: int | None) -> str:
    if seconds is None:
        return "?"
    if not seconds:
        return "0 s"
    return f"{seconds:.1f} s" + (f", {size(pending)}" if pending else "")


def _grade(hop: Hop) -> str:
    """A class of the style sheet."""
    if hop.problem or hop.lag_seconds is None:
        return "unknown"
    if not hop.works or hop.is_very_late:
        return "bad"
    return "late" if hop.is_late else "ok"


def _told(report: LagReport, age_seconds: float) -> Iterator[str]:
    for problem in report.problems:
        yield f'<p class="problem">{escape(problem)}</p>'
    for warning in report.warnings:
        yield f'<p class="warning">{escape(warning)}</p>'
    if report.wal_bytes_per_second is not None:
        text = f"WAL: {size(int(report.wal_bytes_per_second))} a second."
        if report.slot_lost_seconds is not None:
            text += f" The slot may be lost after {duration(report.slot_lost_seconds)} of this if capture stands still."
        yield f'<p class="dim">{escape(text)}</p>'
    if age_seconds > 3 * _REFRESH_MILLISECONDS / 1000:
        yield f'<p class="warning">As of {age_seconds:.0f} s ago: somebody does not answer.</p>'
