"""The report's style sheet: light and dark, wide and narrow, screen and paper."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2127; --soft: #5d6672; --line: #e3e4e0; --grid: #ecece8;
  --accent: #1f5fbf; --tint: #e8effa; --right: #0b7a5b; --right-tint: #e3f4ee; --wrong: #b8431d;
  --wrong-tint: #fbeae3;
  --s0: #1f5fbf; --s1: #c7661a; --s2: #0b7a5b; --s3: #a0438f; --s4: #7a6a00; --s5: #0f8aa3; --s6: #a8323e;
  --s7: #5d6672;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1b1e24; --ink: #e7e9ec; --soft: #9aa3af; --line: #2e333b; --grid: #262a31;
    --accent: #86b0f5; --tint: #1f2b40; --right: #57c79f; --right-tint: #17312a; --wrong: #f09a74;
    --wrong-tint: #3a231a;
    --s0: #86b0f5; --s1: #f0a35e; --s2: #57c79f; --s3: #dd8fd0; --s4: #d1bf55; --s5: #5fc7dc;
    --s6: #f08a93; --s7: #9aa3af;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1080px; margin: 0 auto; padding: 48px 28px 64px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 6px; }
h2 { font-size: 22px; line-height: 1.25; letter-spacing: -0.01em; margin: 0; }
h3 { font-size: 16px; margin: 28px 0 12px; }
p { margin: 0; }
a { color: inherit; text-decoration-color: var(--line); text-underline-offset: 3px; }
a:hover { text-decoration-color: currentColor; }
.soft { color: var(--soft); }
.small { font-size: 14px; }
section { margin-top: 52px; }
section > header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 12px; margin-bottom: 6px; }
section > header .time { margin-left: auto; }
.kind {
  font-size: 13px; color: var(--accent); background: var(--tint); border-radius: 99px; padding: 1px 10px;
}
.facts { color: var(--soft); margin-bottom: 16px; }
.note { margin-top: 10px; }
.facts b { color: var(--ink); font-weight: 600; }

.hero { display: flex; flex-wrap: wrap; gap: 12px 0; margin: 34px 0 30px; }
.hero > div { padding-right: 30px; }
.hero > div + div { border-left: 1px solid var(--line); padding-left: 30px; }
.hero .score { font-size: 46px; line-height: 1.1; font-weight: 650; letter-spacing: -0.03em; }
.hero .score small {
  font-size: 0.5em; font-weight: 500; letter-spacing: 0; color: var(--soft); margin-left: 3px;
}
.hero > div:last-child .score { color: var(--accent); }

.ladder { margin: 10px 0 30px; }
.rung { display: grid; grid-template-columns: 130px 1fr 190px; gap: 0 16px; align-items: center; }
.rung .name { font-weight: 600; overflow-wrap: anywhere; }
.rung .said { color: var(--soft); font-size: 14px; white-space: nowrap; }
.rung .said b { color: var(--ink); font-size: 16px; }
.track { display: block; width: 100%; height: 38px; overflow: visible; }
.axis { position: relative; height: 20px; font-size: 12px; color: var(--soft); }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.whisker { stroke: var(--accent); stroke-width: 4; stroke-linecap: round; opacity: 0.35; }
.dot { fill: var(--accent); stroke: var(--paper); stroke-width: 2; }
.grid { stroke: var(--grid); stroke-width: 1; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th {
  font-weight: 500; color: var(--soft); font-size: 13px; text-align: right; padding: 6px 0 6px 18px;
  white-space: nowrap;
}
td { padding: 7px 0 7px 18px; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
tr.scored td { font-weight: 600; }
tr.scored td.plain { font-weight: 400; }
tr.total td { color: var(--soft); }
td.bar { width: 24%; min-width: 90px; }
.fill {
  display: block; height: 8px; min-width: 2px; border-radius: 2px; background: var(--accent);
  opacity: 0.55;
}

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 16px; }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 12px 6px;
}
figcaption {
  display: flex; justify-content: space-between; gap: 12px; font-size: 14px; font-weight: 600;
  padding: 0 2px 4px;
}
figcaption span { font-weight: 600; color: var(--s0); white-space: nowrap; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-size: 11px; fill: var(--soft); }
.chart .left { text-anchor: end; }
.chart .middle { text-anchor: middle; }
.chart .end { font-weight: 600; stroke: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.raw { stroke-width: 1; opacity: 0.28; }
.mark { stroke: var(--wrong); stroke-width: 1.2; stroke-dasharray: 3 2; }
.chart .mark-number { fill: var(--wrong); font-size: 10px; font-weight: 700; }
.hit { fill: transparent; }
.hit:hover { fill: var(--ink); opacity: 0.08; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); } .line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); }
.line.s6 { stroke: var(--s6); } .line.s7 { stroke: var(--s7); }
.chart .s0:not(.line) { fill: var(--s0); } .chart .s1:not(.line) { fill: var(--s1); }
.chart .s2:not(.line) { fill: var(--s2); } .chart .s3:not(.line) { fill: var(--s3); }
.chart .s4:not(.line) { fill: var(--s4); } .chart .s5:not(.line) { fill: var(--s5); }
.chart .s6:not(.line) { fill: var(--s6); } .chart .s7:not(.line) { fill: var(--s7); }

.alarms { margin: 0 0 18px; background: var(--wrong-tint); border-left: 3px solid var(--wrong); border-radius: 4px; }
.alarms ol { margin: 0; padding: 10px 16px 10px 34px; font-size: 14px; }
.alarms li + li { margin-top: 6px; }
.alarms li::marker { color: var(--wrong); font-weight: 700; }
.alarms details { margin: 0 16px; }

.outcomes { display: flex; height: 12px; border-radius: 4px; overflow: hidden; gap: 2px; margin: 14px 0 8px; }
.outcomes span { display: block; }
.turned-right { background: var(--right); } .stayed-right { background: var(--right); opacity: 0.4; }
.turned-wrong { background: var(--wrong); } .stayed-wrong { background: var(--wrong); opacity: 0.35; }
.legend {
  display: flex; flex-wrap: wrap; gap: 2px 20px; font-size: 14px; color: var(--soft); margin-bottom: 20px;
}
.legend b { color: var(--ink); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.problem {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-bottom: 18px;
  padding: 16px;
}
.problem > header {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 16px; font-size: 14px;
}
.answers {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 12px; margin-top: 12px;
}
.answer {
  border-top: 3px solid var(--wrong); background: var(--wrong-tint); border-radius: 4px;
  padding: 10px 12px;
}
.answer.right { border-color: var(--right); background: var(--right-tint); }
.answer.plain { border-color: var(--accent); background: var(--tint); }
.answer > header {
  display: flex; justify-content: space-between; gap: 10px; font-size: 13px; margin-bottom: 6px;
}
.answer .verdict { font-weight: 600; color: var(--wrong); }
.answer.right .verdict { color: var(--right); }
.answer.plain .verdict { color: var(--accent); }
pre {
  margin: 0; font: 13px/1.5 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26em; overflow-y: auto;
}
pre.prompt { margin-top: 10px; max-height: 14em; }
pre .token { color: var(--soft); opacity: 0.75; }
pre .think { color: var(--soft); }

details { margin-top: 16px; border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: 9px 0; font-size: 14px; color: var(--soft); }
.made details { margin-top: 0; }
.made summary b { color: var(--ink); }
details .problem:first-of-type { margin-top: 8px; }
summary:hover { color: var(--ink); }
.pairs {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 0 32px;
  margin: 0 0 12px; font-size: 13px;
}
.pairs div {
  display: flex; justify-content: space-between; gap: 16px; border-bottom: 1px dotted var(--line);
  padding: 3px 0;
}
.pairs dt { color: var(--soft); white-space: nowrap; }
.pairs dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }
footer {
  margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--soft);
  font-size: 13px;
}

@media (max-width: 640px) {
  main { padding: 28px 16px 48px; }
  h1 { font-size: 28px; }
  .hero { display: grid; grid-template-columns: repeat(auto-fit, minmax(96px, 1fr)); gap: 12px; }
  .hero > div, .hero > div + div { padding: 0 0 0 12px; border-left: 1px solid var(--line); }
  .hero .score { font-size: 30px; }
  .rung { grid-template-columns: 1fr auto; }
  .rung .track, .rung .axis { grid-column: 1 / -1; grid-row: 2; }
  .track { height: 28px; }
  .axis span:first-child { transform: none; }
  .axis span:last-child { transform: translateX(-100%); }
  td, th { padding-left: 14px; }
  td.bar, td.text, th.text { display: none; }
}
@media print {
  :root { --paper: #fff; --tint: #fff; --right-tint: #fff; --wrong-tint: #fff; }
  main { max-width: none; padding: 0; }
  figure, .problem, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  pre { max-height: none; }
  .charts { grid-template-columns: repeat(3, 1fr); }
}
"""
