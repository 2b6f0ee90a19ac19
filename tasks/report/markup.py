"""How a page looks: its frame, its style, and a table as HTML. Everything from data is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tasks.report.tables import Cell, Measured, Table, Verdict, number

_POLICY = "default-src 'none'; img-src data: file:; style-src 'unsafe-inline'"
_LONG, _WILD = 30, 20  # rows that scroll in their own box; letters of a word that may be broken anywhere

STYLE = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:#1f2933;overflow-wrap:anywhere;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main,header,nav{max-width:72rem;margin:0 auto;padding:0 1.25rem}main{padding-bottom:3rem}
h1,h2{font:600 2.1rem/1.2 Charter,"Bitstream Charter",Georgia,"Liberation Serif",serif;margin:.1rem 0 1rem}
h2{font-size:1.4rem;margin:2rem 0 .8rem;padding-top:1.5rem;border-top:1px solid #d9dfe5}
h3{font-size:1rem;margin:0 0 .3rem}p,ul{max-width:46rem;margin:.45rem 0}a{color:#0b4f8a}
.kicker{margin:1.6rem 0 0;font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:#52606d}
.banner{display:flex;gap:1rem;align-items:center;padding:1rem 1.2rem;background:#eef7f2;
border:1px solid;border-left-width:.5rem;border-radius:4px}.banner p{margin:0;color:#1f2933;max-width:none}
.banner .word{font-size:1.35rem;font-weight:700;letter-spacing:.03em;color:inherit}
.warning{padding:.5rem .8rem;background:#fff6e5;border-left:.25rem solid #b36b00}
.PASSED{color:#0b5d3b}.REJECTED{color:#9b1c1c}.INCONCLUSIVE{color:#7a4a00}
.banner.REJECTED,tr.REJECTED>*{background:#fdf0ef}.banner.INCONCLUSIVE,tr.INCONCLUSIVE>*{background:#fff6e5}
.lead{display:grid;grid-template-columns:minmax(0,46rem) minmax(0,1fr);gap:1rem 2.5rem;margin:1rem 0}
.lead p:first-child{margin-top:0;font-weight:600}
nav ol{columns:4 9rem;margin:1.2rem 0 0;padding:.9rem 1rem .9rem 2.4rem;background:#f6f8fa;font-size:.9rem}
.parts{display:flex;flex-wrap:wrap;gap:.9rem 2rem;align-items:flex-start}.parts>*{flex:0 0 100%;min-width:0;margin:0}
.parts>figure{flex:0 1 32.5rem}.parts>figure.wide{flex-basis:100%}
img{max-width:100%;height:auto;display:block}figcaption{font-size:.88rem;color:#46525e;margin-top:.3rem}
.box{overflow-x:auto}.long{max-height:44rem}.box:focus-visible{outline:2px solid #0b4f8a}
table{border-collapse:collapse;font-size:.88rem;line-height:1.4;font-variant-numeric:tabular-nums lining-nums}
caption{text-align:left;font-weight:600;padding:.2rem 0 .4rem}
th,td{padding:.4rem 1.1rem .4rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e4e8ec;
max-width:26rem;overflow-wrap:normal}
thead th{vertical-align:bottom;color:#46525e;font-weight:600;border-bottom:1.5px solid #7b8794}
tbody th{font-weight:500;min-width:8rem}td.text{min-width:17rem}.long thead th{position:sticky;top:0;background:#fff}
th.wild,td.wild{overflow-wrap:anywhere;min-width:9rem}td.tight,small{white-space:nowrap}.count{text-align:right}
td.verdict{font-weight:700;white-space:nowrap}tr.REJECTED,tr.INCONCLUSIVE,tr.PASSED{color:#1f2933}
tr.REJECTED>th,tr.INCONCLUSIVE>th{padding-left:.6rem;box-shadow:inset .25rem 0 #9b1c1c}
tr.INCONCLUSIVE>th{box-shadow:inset .25rem 0 #b36b00}
tr.REJECTED>th::before{content:"✕ "}tr.INCONCLUSIVE>th::before{content:"? "}
small{display:block;font-size:.8rem;color:#52606d}
.pictures{max-width:none;list-style:none;padding:0;display:grid;gap:1.1rem;
grid-template-columns:repeat(auto-fill,minmax(10.2rem,1fr))}
.pictures li{border:1px solid #e4e8ec;border-radius:4px;padding:.5rem}
.pictures img{width:100%;background:#f6f8fa}.name{margin:.4rem 0;color:#52606d;font-size:.8rem}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) minmax(0,1fr);gap:.1rem 1rem;margin:0;
font-size:.88rem;align-content:start}.pictures dl{font-size:.8rem;grid-template-columns:auto minmax(0,1fr);gap:0 .35rem}
dt{color:#52606d}dd{margin:0}.settings{columns:3 19rem;column-gap:2.5rem}
.settings>div{break-inside:avoid;margin:0 0 1.2rem}
@media(max-width:60rem){.lead{grid-template-columns:minmax(0,1fr)}}
@media(max-width:40rem){body{font-size:15px}h1{font-size:1.6rem;margin-bottom:.7rem}.kicker{margin-top:1rem}
main,header,nav{padding:0 .9rem}.banner{padding:.8rem}tbody th{min-width:6.5rem;max-width:10rem;
position:sticky;left:0;background:#fff}.pictures{grid-template-columns:1fr 1fr;gap:.7rem}.pictures li{padding:.4rem}
.pictures dl{display:block}.pictures dd{margin:0 0 .2rem}}
@media print{body{font-size:10pt}nav{display:none}.box{overflow:visible;max-height:none}
figure,tr,.pictures li,.banner{break-inside:avoid}h2,caption{break-after:avoid}}
"""


def page_html(title: str, kicker: str, name: str, lead: str, sections: Mapping[str, Sequence[str | Table]]) -> str:
    """A page that needs no other file, script or network. `lead` and the parts that are text are HTML already."""
    links = "".join(f'<li><a href="#s{i}">{escape(section)}</a></li>' for i, section in enumerate(sections, 1))
    body = "".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{escape(section)}</h2><div class="parts">'
        f"{''.join(part if isinstance(part, str) else table_html(part) for part in parts)}</div></section>\n"
        for i, (section, parts) in enumerate(sections.items(), 1)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(name)}</h1>{lead}</header>'
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n<main>{body}</main></body></html>\n'
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table_html(table: Table) -> str:
    counts = [i for i, cell in enumerate(table.rows[0]) if isinstance(cell, int)] if table.rows else []
    head = "".join(
        f'<th scope="col"{_class(0 if i in counts else title)}>{escape(title)}</th>'
        for i, title in enumerate(table.header)
    )
    rows = []
    for first, *rest in table.rows:
        verdict = "".join(cell for cell in rest if isinstance(cell, Verdict))
        cells = "".join(f"<td{_class(cell)}>{_html(cell)}</td>" for cell in rest)
        rows.append(f'<tr class="{verdict}"><th scope="row"{_class(first)}>{_html(first)}</th>{cells}</tr>')
    caption, box = escape(table.caption), "box long" if len(rows) > _LONG else "box"
    return (
        f'<div class="{box}" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _class(cell: Cell) -> str:
    if isinstance(cell, int):
        return ' class="count"'
    if isinstance(cell, Measured):
        return ' class="tight"'
    if isinstance(cell, Verdict):
        return f' class="verdict {cell}"'
    if max(map(len, cell.split()), default=0) > _WILD:
        return ' class="wild"'
    return ' class="text"' if len(cell) > 2 * _WILD else ' class="tight"' if len(cell) < _WILD else ""


def _html(cell: Cell) -> str:
    if isinstance(cell, Measured):
        return number(cell.value) + (f"<small>{cell.interval}</small>" if cell.interval else "")
    return escape(number(cell) if isinstance(cell, int) else cell)
