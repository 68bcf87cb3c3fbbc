"use strict";
const file = document.documentElement.dataset.file;
const rows = [...document.querySelectorAll("article")];
const answered = document.getElementById("answered"), done = document.getElementById("done");
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
  answered.textContent = given.length + " of " + rows.length;
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
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
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
