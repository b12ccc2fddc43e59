"""The one style sheet of a report: for screens of 320 px and more, light and dark, and for paper."""

from __future__ import annotations

import base64
import hashlib

# Contrast of text on what it stands on is at least 4.5 in both schemes; a test computes it.
LIGHT = {
    "paper": "#ffffff", "ink": "#1b1f24", "faint": "#57606a", "line": "#d0d7de", "card": "#f6f8fa", "good": "#116329",
    "bad": "#b3261e", "accent": "#0b57a4", "mark": "#ffe08a", "markink": "#3b2700",
}  # fmt: skip
DARK = {
    "paper": "#0d1117", "ink": "#e6edf3", "faint": "#9aa4b0", "line": "#3a424d", "card": "#161b22", "good": "#56d364",
    "bad": "#ff8f85", "accent": "#79b8ff", "mark": "#5c4500", "markink": "#ffe9b0",
}  # fmt: skip
# Of types by their bits, few to many; the same in both schemes, with dark letters on them.
SWATCHES = (
    "#f4a582", "#fdcd7d", "#f7ef9a", "#c7e59b", "#92d3a4", "#7cc8d6", "#8fb3ef", "#b7a6ee", "#dda5e3", "#f2a7c3",
    "#cfcfcf", "#bfa98f",
)  # fmt: skip
SWATCH_INK = "#14181d"


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{key}:{value};" for key, value in colours.items())


CSS = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    "*{box-sizing:border-box}"
    "body{margin:0 auto;max-width:66rem;padding:.75rem;background:var(--paper);color:var(--ink);"
    "font:1rem/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;overflow-wrap:anywhere}"
    "h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0 .5rem}h2{font-size:1.2rem;margin:2rem 0 .5rem;"
    "border-bottom:1px solid var(--line);padding-bottom:.2rem}h3{font-size:1.02rem;margin:1.25rem 0 .4rem}"
    "p{margin:.4rem 0}a{color:var(--accent)}small,.faint,caption,figcaption{color:var(--faint)}"
    ".verdict{border:1px solid var(--line);border-left:.4rem solid var(--faint);background:var(--card);"
    "padding:.5rem .75rem;font-weight:600;border-radius:.3rem}.verdict.good{border-left-color:var(--good)}"
    ".verdict.bad{border-left-color:var(--bad)}.good{color:var(--good)}.bad{color:var(--bad)}"
    ".verdict.good,.verdict.bad{color:var(--ink)}td.bad,td.good{font-weight:600}"
    ".wide{overflow-x:auto;margin:.5rem 0;max-width:100%}table{border-collapse:collapse;font-size:.86rem;"
    "width:100%}caption{text-align:left;font-size:.8rem;padding:.1rem 0 .25rem}th,td{text-align:left;"
    "vertical-align:top;padding:.25rem .5rem;border-bottom:1px solid var(--line)}thead th{white-space:nowrap;"
    "background:var(--card)}th[scope=row]{font-weight:600;min-width:7rem;max-width:22rem}"
    ".n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1rem}"
    "figure{margin:.5rem 0;min-width:0}figcaption{font-size:.8rem}"
    "svg.chart{display:block;width:100%;max-width:34rem;height:auto;background:var(--card);"
    "border:1px solid var(--line);border-radius:.3rem}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}"
    "svg .small{font-size:10px}svg .axis{stroke:var(--faint);stroke-width:1}svg .rule{stroke:var(--line);"
    "stroke-width:1}svg .curve{fill:none;stroke:var(--accent);stroke-width:2}svg .dash{fill:none;"
    "stroke:var(--faint);stroke-width:1.5;stroke-dasharray:4 3}svg .dot{fill:var(--accent)}svg .dot.bad{"
    "fill:var(--bad)}svg .bar{fill:var(--accent)}svg .error{stroke:var(--accent);stroke-width:1.5}"
    "svg text.cell{font-size:9px;fill:" + SWATCH_INK + ";text-anchor:middle}svg text.end{text-anchor:end}"
    "svg text.mid{text-anchor:middle}svg.strip{display:block;width:6rem;height:.8rem}"
    + "".join(f"svg .s{at}{{fill:{colour}}}" for at, colour in enumerate(SWATCHES))
    + "ul.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.4rem 0;font-size:.86rem}"
    "svg.key{width:1.3rem;height:.95rem;vertical-align:-.12rem;margin-right:.3rem}"
    "article{border:1px solid var(--line);border-radius:.3rem;padding:.5rem .6rem;margin:.6rem 0}"
    ".sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr));gap:.75rem}"
    ".sides>div{min-width:0}.sides h4{margin:.2rem 0;font-size:.82rem;color:var(--faint);font-weight:600}"
    ".text{white-space:pre-wrap;font:.86rem/1.6 ui-monospace,'DejaVu Sans Mono','Noto Sans Mono',monospace;margin:0}"
    "mark{background:var(--mark);color:var(--markink);text-decoration:underline;text-decoration-thickness:2px;"
    "border-radius:2px}"
    "details{margin:.4rem 0}summary{cursor:pointer;color:var(--accent);padding:.2rem 0}"
    "code{font:.86em ui-monospace,'DejaVu Sans Mono',monospace}"
    "footer{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:.5rem;font-size:.8rem;color:var(--faint)}"
    "@media screen and (max-width:40rem){thead{position:absolute;width:1px;height:1px;overflow:hidden;"
    "clip-path:inset(50%)}tbody,tr,th[scope=row],td{display:block;max-width:none}tr{border-bottom:2px solid "
    "var(--line);padding:.3rem 0}th[scope=row],td,.n{border:0;padding:.08rem .25rem;text-align:left;"
    "white-space:normal}td[data-of]{padding-left:8.5rem;min-height:1.4em;position:relative}td[data-of]::before{"
    "content:attr(data-of);position:absolute;left:.25rem;width:7.9rem;color:var(--faint);font-weight:400}"
    "svg text{font-size:13px}svg .small{font-size:12px}svg text.cell{font-size:11px}}"
    "@media print{:root{" + _variables(LIGHT) + "color-scheme:light}body{max-width:none;padding:0;font-size:10pt}"
    ".wide{overflow:visible}.pair{grid-template-columns:1fr}figure,article,tr{break-inside:avoid}h2,h3{break-after:avoid}"
    "details::details-content{content-visibility:visible;height:auto}summary{color:var(--ink)}"
    "*{print-color-adjust:exact;-webkit-print-color-adjust:exact}svg.chart{max-width:12cm}}"
)

POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'"
)
