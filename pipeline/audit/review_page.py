"""The review sheet as a page: one HTML file that needs no server and loads nothing.

Decisions live in the browser (and in its local storage, so that a closed tab loses none) until
they are saved as the CSV that `jobs/reshard_openimages.py` reads.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate as it is shown.

    Attributes:
        image_id, mid: what the reviewer's answer is about.
        name: of the class.
        facts: (label, value) pairs, plain text.
        pictures: (caption, data URI).
    """

    image_id: str
    mid: str
    name: str
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[tuple[str, str]]


def page(title: str, note: str, file: str, rows: Sequence[Row], command: str) -> str:
    """The HTML document.

    Args:
        title: what is reviewed.
        note: what the pictures show.
        file: name of the CSV that the reviewer saves; decisions are remembered under it.
        rows: in the order of review.
        command: that takes the CSV in.
    """
    parts = {
        "<!--title-->": html.escape(title),
        "<!--note-->": html.escape(note),
        "<!--file-->": html.escape(file),
        "<!--command-->": html.escape(command),
        "<!--count-->": str(len(rows)),
        "/*style*/": _STYLE,
        "/*script*/": _SCRIPT,
        "<!--rows-->": "\n".join(_row(number, row) for number, row in enumerate(rows, start=1)),
    }
    text = _PAGE
    for marker, part in parts.items():
        text = text.replace(marker, part)
    return text


def _row(number: int, row: Row) -> str:
    pictures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{uri}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, uri in row.pictures
    )
    facts = "".join(
        f"<dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd>" for label, value in row.facts
    )
    buttons = "".join(
        f'<button type="button" value="{value}" aria-pressed="false">{text}'
        f"<kbd>{text[0]}</kbd></button>"
        for value, text in (("1", "Positive"), ("0", "Negative"), ("?", "Unsure"))
    )
    return (
        f'<article data-image="{html.escape(row.image_id)}" data-mid="{html.escape(row.mid)}">'
        f'<div class="pictures">{pictures}</div><div class="about">'
        f'<p class="number">{number}</p><h2>{html.escape(row.name)}</h2><dl>{facts}</dl>'
        f'<div class="answers" role="group" aria-label="{html.escape(row.name)}">{buttons}</div>'
        "</div></article>"
    )


_PAGE = """<!doctype html>
<html lang="en" data-file="<!--file-->">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title><!--title--></title>
<style>/*style*/</style>
</head>
<body>
<header>
<div><h1><!--title--></h1>
<p>Is the class in the image? <kbd>P</kbd> positive <kbd>N</kbd> negative <kbd>U</kbd> unsure
<kbd>↑</kbd> <kbd>↓</kbd> move <kbd>⌫</kbd> clear <kbd>S</kbd> save</p><p><!--note--></p></div>
<div class="state"><output id="told">0 of <!--count--></output>
<button type="button" id="save">Save CSV</button></div>
<progress id="done" max="<!--count-->" value="0"></progress>
</header>
<main>
<!--rows-->
</main>
<footer><p>Saving writes <code><!--file--></code>; what is unsure or unanswered stays unobserved.
Take it in with</p><pre><!--command--></pre></footer>
<script>/*script*/</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --quiet: #646c76; --line: #dfe3e8;
  --paper: #fff; --ground: #f4f6f8; --blue: #0072b2; --yes: #00795a; --no: #b3460a;
  --maybe: #646c76 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --quiet: #a2a9b3; --line: #363c44;
  --paper: #1d2126; --ground: #14171b; --blue: #56b4e9; --yes: #2fb98f; --no: #f08a4b;
  --maybe: #a2a9b3 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif }
header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 4px 24px;
  align-items: center; justify-content: space-between; padding: 12px 24px 0;
  background: var(--paper); border-bottom: 1px solid var(--line) }
h1 { margin: 0; font-size: 17px } header p { margin: 2px 0 0; color: var(--quiet); font-size: 13px }
.state { display: flex; gap: 16px; align-items: center; font-variant-numeric: tabular-nums }
progress { flex-basis: calc(100% + 48px); margin: 8px -24px 0; height: 3px; border: 0;
  appearance: none; background: transparent }
progress::-webkit-progress-bar { background: transparent }
progress::-webkit-progress-value { background: var(--blue) }
progress::-moz-progress-bar { background: var(--blue) }
kbd { font: 11px/1 ui-monospace, monospace; padding: 2px 5px; border: 1px solid var(--line);
  border-radius: 4px; color: var(--quiet); background: var(--paper) }
main { max-width: 1240px; margin: 24px auto; padding: 0 24px; display: grid; gap: 16px }
article { display: flex; gap: 24px; padding: 16px; background: var(--paper);
  scroll-margin: 116px 0 16px;
  border: 1px solid var(--line); border-left: 5px solid var(--line); border-radius: 8px }
article.current { box-shadow: 0 0 0 2px var(--blue) }
article[data-answer="1"] { border-left-color: var(--yes) }
article[data-answer="0"] { border-left-color: var(--no) }
article[data-answer="?"] { border-left-color: var(--maybe) }
article[data-answer] .pictures { opacity: .6 } article.current .pictures { opacity: 1 }
.pictures { flex: 3; display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }
figure { margin: 0; min-width: 0 }
img { display: block; width: 100%; height: 216px; object-fit: contain; background: var(--ground);
  border-radius: 4px }
figcaption { margin-top: 4px; font-size: 12px; color: var(--quiet); text-align: center }
.about { flex: 1; min-width: 250px; display: flex; flex-direction: column; position: relative }
.number { position: absolute; right: 0; top: 2px; margin: 0; color: var(--quiet); font-size: 13px }
h2 { margin: 0 32px 8px 0; font-size: 21px; line-height: 1.2; overflow-wrap: anywhere }
dl { margin: 0 0 16px; display: grid; grid-template-columns: auto 1fr; gap: 2px 12px;
  font-size: 13px; font-variant-numeric: tabular-nums }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
.answers { margin-top: auto; display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }
button { font: inherit; color: inherit; padding: 7px 10px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper); cursor: pointer }
button:hover { border-color: var(--quiet) }
button:focus-visible { outline: 2px solid var(--blue); outline-offset: 1px }
.answers button { display: flex; flex-direction: column; gap: 4px; align-items: center;
  font-size: 13px }
button[aria-pressed="true"], #save { color: #fff; font-weight: 600 }
button[aria-pressed="true"] kbd { color: inherit; background: transparent }
button[value="1"][aria-pressed="true"] { background: var(--yes); border-color: var(--yes) }
button[value="0"][aria-pressed="true"] { background: var(--no); border-color: var(--no) }
button[value="?"][aria-pressed="true"] { background: var(--maybe); border-color: var(--maybe) }
#save { background: var(--blue); border-color: var(--blue) }
#save:disabled { opacity: .4; cursor: default }
@media (prefers-color-scheme: dark) { button[aria-pressed="true"], #save { color: #14171b } }
footer { max-width: 1240px; margin: 0 auto; padding: 0 24px 48px; color: var(--quiet) }
pre { white-space: pre-wrap; padding: 12px; background: var(--paper); color: var(--ink);
  border: 1px solid var(--line); border-radius: 6px }
@media (max-width: 900px) { article { flex-direction: column } img { height: 140px } }
"""

_SCRIPT = """
"use strict";
const file = document.documentElement.dataset.file;
const rows = [...document.querySelectorAll("article")];
const told = document.getElementById("told"), done = document.getElementById("done");
const save = document.getElementById("save");
const name = row => row.dataset.image + " " + row.dataset.mid;
let answers = {}, current = 0, saved = true;
try { answers = JSON.parse(localStorage.getItem("review:" + file)) || {}; } catch (error) {}

function show(row) {
  const answer = answers[name(row)];
  if (answer) row.dataset.answer = answer; else delete row.dataset.answer;
  for (const button of row.querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.value === answer);
}
function count() {
  const given = rows.map(row => answers[name(row)]).filter(Boolean);
  const labels = given.filter(answer => answer !== "?").length;
  done.value = given.length;
  told.textContent = given.length + " of " + rows.length;
  save.textContent = "Save CSV (" + labels + (labels === 1 ? " label)" : " labels)");
  save.disabled = labels === 0;
}
function go(place, block) {
  if (!rows.length) return;
  rows[current].classList.remove("current");
  current = Math.max(0, Math.min(rows.length - 1, place));
  rows[current].classList.add("current");
  rows[current].scrollIntoView({ block: block || "nearest" });
}
function answer(place, value, block) {
  const row = rows[place];
  if (value) answers[name(row)] = value; else delete answers[name(row)];
  saved = false;
  try { localStorage.setItem("review:" + file, JSON.stringify(answers)); } catch (error) {}
  show(row); count();
  go(value ? place + 1 : place, block);
}
function download() {
  const lines = ["ImageID,Source,LabelName,Confidence"];
  for (const row of rows) {
    const value = answers[name(row)];
    if (value === "1" || value === "0")
      lines.push([row.dataset.image, "reviewed", row.dataset.mid, value].join(","));
  }
  if (lines.length === 1) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], { type: "text/csv" }));
  link.download = file;
  link.click();
  saved = true;
}
rows.forEach((row, place) => {
  show(row);
  row.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return go(place);
    go(place);
    answer(place, button.getAttribute("aria-pressed") === "true" ? "" : button.value);
  });
});
save.addEventListener("click", download);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !rows.length) return;
  const act = {
    p: () => answer(current, "1", "center"), n: () => answer(current, "0", "center"),
    u: () => answer(current, "?", "center"), backspace: () => answer(current, "", "center"),
    arrowdown: () => go(current + 1, "center"), arrowup: () => go(current - 1, "center"),
    s: download,
  }[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
addEventListener("beforeunload", event => { if (!saved) event.preventDefault(); });
count();
const open = rows.findIndex(row => !answers[name(row)]);
go(open < 0 ? 0 : open, open > 0 ? "center" : "nearest");
"""
