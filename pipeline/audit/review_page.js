"use strict";
const file = document.documentElement.dataset.file;
const rows = [...document.querySelectorAll("article")];
const answered = document.getElementById("answered"), done = document.getElementById("done");
const save = document.getElementById("save");
const name = row => row.dataset.image + " " + row.dataset.mid;
const ofClass = document.getElementById("class"), open = document.getElementById("open");
const undone = document.getElementById("undo"), history = [];
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
  answered.textContent = given.length + " of " + rows.length;
  save.textContent = "Save CSV (" + labels + (labels === 1 ? " label)" : " labels)");
  save.disabled = labels === 0;
}
function next(place, step) {
  while (rows[place] && rows[place].hidden) place += step;
  return rows[place] ? place : current;
}
function go(place, block = "nearest") {
  if (!rows.length) return;
  const zoomed = isZoomed();
  zoom(false);
  rows[current].classList.remove("current");
  current = Math.max(0, Math.min(rows.length - 1, place));
  rows[current].classList.add("current");
  rows[current].focus({ preventScroll: true });
  if (block) rows[current].scrollIntoView({ block });
  zoom(zoomed);
}
function isZoomed() { return document.querySelector(".zoomed") !== null; }
function zoom(on) { rows[current].querySelector(".pictures").classList.toggle("zoomed", on); }
function set(row, value) {
  if (value) answers[name(row)] = value; else delete answers[name(row)];
  saved = false;
  try { localStorage.setItem("review:" + file, JSON.stringify(answers)); } catch (error) {}
  show(row); count();
}
function answer(place, value, block) {
  history.push([place, answers[name(rows[place])]]);
  set(rows[place], value);
  go(value ? next(place + 1, 1) : place, block);
}
function undo() {
  const last = history.pop();
  if (!last) return;
  set(rows[last[0]], last[1]);
  rows[last[0]].hidden = false;
  go(last[0], "center");
}
function filter() {
  for (const row of rows)
    row.hidden = (ofClass.value !== "" && row.dataset.class !== ofClass.value)
      || (open.checked && name(row) in answers);
  const first = rows.findIndex(row => !row.hidden);
  if (rows.length && rows[current].hidden && first >= 0) go(first);
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
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = file;
  link.click();
  saved = true;
}
rows.forEach((row, place) => {
  show(row);
  row.addEventListener("click", event => {
    const button = event.target.closest("button");
    go(place);
    if (event.target.closest(".pictures")) zoom(!isZoomed());
    if (!button) return;
    answer(place, button.getAttribute("aria-pressed") === "true" ? "" : button.value);
  });
});
for (const of of [...new Set(rows.map(row => row.dataset.class))].sort())
  ofClass.append(new Option(of, of));
ofClass.addEventListener("change", filter);
open.addEventListener("change", filter);
undone.addEventListener("click", undo);
save.addEventListener("click", download);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !rows.length) return;
  if (event.target === ofClass) return;
  const act = {
    p: () => answer(current, "1", "center"), n: () => answer(current, "0", "center"),
    u: () => answer(current, "?", "center"), backspace: () => answer(current, "", "center"),
    arrowdown: () => go(next(current + 1, 1), "center"),
    arrowup: () => go(next(current - 1, -1), "center"),
    enter: () => zoom(!isZoomed()), escape: () => zoom(false),
    z: undo, s: download,
  }[event.key.toLowerCase()];
  if (!act || (event.key === "Enter" && event.target.closest("button"))) return;
  event.preventDefault();
  act();
});
addEventListener("beforeunload", event => { if (!saved) event.preventDefault(); });
count();
const first = rows.findIndex(row => !answers[name(row)]);
go(first < 0 ? 0 : first, first > 0 ? "center" : "");  // a new sheet opens at its title
