"""The style of the pages: light and dark, wide and narrow, on paper. ``DRAWING`` alone is that of a picture."""

from __future__ import annotations

DRAWING = """
:root{--page:#ffffff;--ink:#1b2430;--soft:#515b66;--rule:#d3d9e0;--domain:#f3f5f8;--switch:#ffffff;
--gpu:#f0ebfb;--gpu-edge:#7a5cc0;--used:#e1f0fc;--used-edge:#1668b3;--used-ink:#0a4478;
--unused:#eceef1;--unused-edge:#b4bcc5;--unused-ink:#525b66;--control:#e2f4e7;--control-edge:#23804a;
--across:#b45309;--good:#12683a;--good-fill:#dcf3e4;--warn:#8a4b00;--warn-fill:#fdeccd;--bad:#a3161f;--bad-fill:#fde3e3}
@media screen and (prefers-color-scheme:dark){:root{--page:#0f141b;--ink:#e4eaf1;--soft:#a3afbc;--rule:#323c48;
--domain:#171e27;--switch:#0f141b;--gpu:#2a2344;--gpu-edge:#9f86e0;--used:#10304c;--used-edge:#4ea3ea;--used-ink:#b9defc;
--unused:#212831;--unused-edge:#4a5562;--unused-ink:#a7b1bc;--control:#15351f;--control-edge:#4bb173;
--across:#f0a14a;--good:#7fdda1;--good-fill:#12351f;--warn:#f4bd6a;--warn-fill:#3d2a0c;--bad:#ff9a96;--bad-fill:#45191b}}
.drawing text{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:var(--ink);white-space:pre}
.drawing .domain{fill:var(--domain);stroke:var(--rule)}
.drawing .switch{fill:var(--switch);stroke:var(--rule)}
.drawing .box rect{stroke-width:1.2}
.drawing .gpu rect{fill:var(--gpu);stroke:var(--gpu-edge)}
.drawing .used rect{fill:var(--used);stroke:var(--used-edge)}
.drawing .unused rect{fill:var(--unused);stroke:var(--unused-edge)}
.drawing .control rect{fill:var(--control);stroke:var(--control-edge)}
.drawing .used text{fill:var(--used-ink)}
.drawing .unused text{fill:var(--unused-ink)}
.drawing .title{fill:var(--soft)}
.drawing .plate{stroke:none}
.drawing .box .name{font-weight:700}
.drawing .right{text-anchor:end}
.drawing .line{fill:none;stroke:var(--used-edge);stroke-width:1.8}
.drawing .across{stroke:var(--across);stroke-dasharray:7 4}
.drawing .unsure{stroke:var(--soft);stroke-dasharray:1.5 4;stroke-linecap:round}
"""

STYLE = (
    DRAWING
    + """
*{box-sizing:border-box}
body{margin:0 auto;padding:20px;max-width:1260px;background:var(--page);color:var(--ink);
font:14px/1.45 system-ui,"Segoe UI","DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:24px;line-height:1.25;margin:0}
h2{font-size:16px;margin:26px 0 8px}
p{margin:4px 0}
code,pre,.mono{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:12.5px}
pre{margin:0;padding:10px 12px;white-space:pre-wrap;background:var(--domain);
border:1px solid var(--rule);border-radius:6px}
pre span,.set span{display:inline-block;max-width:100%}
ul{list-style:none;margin:0;padding:0}
.soft{color:var(--soft)}
bdi{unicode-bidi:isolate}
.verdict{display:inline-block;margin:10px 0 4px;padding:5px 12px;border-radius:6px;font-weight:600;
background:var(--good-fill);color:var(--good)}
.verdict.error{background:var(--bad-fill);color:var(--bad)}
.problems>li{margin:8px 0;padding:8px 12px;border-left:4px solid var(--warn);border-radius:4px;
background:var(--warn-fill)}
.problems>.error{border-color:var(--bad);background:var(--bad-fill)}
.problems>.info{border-color:var(--rule);background:var(--domain)}
.problems .code{font-weight:700;color:var(--warn)}
.problems .error .code{color:var(--bad)}
.problems .info .code{color:var(--ink)}
figure{margin:0}
.drawing{display:block;max-width:100%;height:auto}
.drawing.narrow{display:none}
.look{margin-top:18px}
dl{margin:0}
dt{font-weight:600;margin-top:10px}
dt:first-child{margin-top:0}
dd{margin:0}
.legend li{display:flex;align-items:center;gap:10px;margin:3px 0}
.legend svg{flex:none;max-width:none}
.table{display:grid;gap:0;border-top:1px solid var(--rule)}
.table>li{display:grid;grid-template-columns:minmax(0,5fr) 150px minmax(0,5fr);gap:4px 16px;padding:6px 0;
border-bottom:1px solid var(--rule)}
.table .set{display:block}
.table .odd{font-weight:600}
.marks{display:flex;flex-wrap:wrap;gap:2px 22px;margin-bottom:8px}
.mark{display:inline-block;min-width:1.5em;text-align:center;font-weight:700}
.mark.proven::after,.chip.proven::after{content:"✓"}.mark.failed::after,.chip.failed::after{content:"✗"}
.mark.lossy::after,.chip.lossy::after{content:"~"}.mark.not_tried::after,.chip.not_tried::after{content:"·"}
.chip code{margin-right:5px}
.mark.proven{color:var(--good)}.mark.lossy{color:var(--warn)}.mark.failed{color:var(--bad)}
.mark.not_tried{color:var(--unused-ink)}
.rows{border-top:1px solid var(--rule)}
.row{padding:9px 0;border-bottom:1px solid var(--rule)}
.who strong{margin-right:4px}
.who .badge{margin-left:8px}
.badge{display:inline-block;padding:0 8px;border-radius:9px;font-size:12.5px;
background:var(--warn-fill);color:var(--warn)}
.badge.info{background:var(--unused);color:var(--unused-ink)}
.badge.error,.badge.missing,.badge.refused,.badge.left{background:var(--bad-fill);color:var(--bad)}
.cells{display:flex;flex-wrap:wrap;gap:5px;margin-top:6px}
.cells>*{max-width:100%}
.cells>[open]{flex-basis:100%}
.chip{display:inline-block;max-width:100%;padding:2px 8px;border:1px solid;border-radius:5px}
summary.chip{cursor:pointer;list-style:none}
summary::-webkit-details-marker{display:none}
summary.chip:hover{text-decoration:underline}
:focus-visible{outline:3px solid var(--used-edge);outline-offset:2px}
.chip.proven{background:var(--good-fill);color:var(--good)}
.chip.lossy{background:var(--warn-fill);color:var(--warn)}
.chip.failed{background:var(--bad-fill);color:var(--bad)}
.chip.not_tried{background:var(--unused);color:var(--unused-ink)}
.cells details>p{margin:4px 0 4px 10px}
.members{margin-top:6px}
.members summary{cursor:pointer;display:inline-block;color:var(--used-ink);text-decoration:underline}
.members ul ul{padding-left:14px;font-size:12.5px;color:var(--soft)}
.chip span{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
footer{margin-top:24px;padding-top:8px;border-top:1px solid var(--rule);color:var(--soft);font-size:12px}
@media (min-width:1120px){.look{display:grid;grid-template-columns:760px minmax(0,1fr);gap:32px}}
@media screen and (max-width:799px){body{padding:12px 14px}.drawing.wide{display:none}
.drawing.narrow{display:block}.look dl{margin-top:16px}
.table>li{grid-template-columns:minmax(0,1fr)}h1{font-size:20px}}
@page{size:A4;margin:9mm}
@media print{body{padding:0;max-width:none;font-size:9px;line-height:1.3;
-webkit-print-color-adjust:exact}h1{font-size:15px}h2{font-size:11px;margin:9px 0 3px}
code,pre,.mono{font-size:8.5px}
.look{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,3fr);gap:14px;margin-top:6px}
.look .drawing{max-height:170mm}.legend li{margin:1px 0}dt{margin-top:4px}.table>li{padding:2px 0}
.problems>li{margin:3px 0;padding:3px 8px}.verdict{margin:4px 0;padding:2px 8px}
footer{margin-top:8px;font-size:8px}}
"""
)
