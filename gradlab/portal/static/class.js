// The class page: the table and our faults follow the verdicts, the panel follows the GPUs.
//
// An event only says whose row to read again; the numbers always come from the API. After every (re)connection the whole
// table is read, so nothing is missed while the stream was down. All text is set as text, never as HTML.

"use strict";

const { prefix, xsrf } = document.body.dataset;
const body = document.querySelector("#class-table tbody");
const template = document.querySelector("#row-template").content.querySelector("tr");
const rows = new Map([...body.rows].map((row) => [row.dataset.learner, row]));
const learners = new Map(); // the data behind each row
const running = new Map(); // "learner\nlab" → ids of submissions being checked
const ACTIVE_SECONDS = 600;

// -- reading ----------------------------------------------------------------------------------------------------------

async function read(path) {
  if (stream.readyState === EventSource.CLOSED) throw new Error(`${path}: not asked for, the page is not live any more`);
  const answer = await fetch(prefix + path, { headers: { "X-XSRF-Token": xsrf }, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) {
    stream.close();
    state("lost", "Logged out: reload this page to log in again");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

let everything = false;
let reading = false;
const stale = new Set();

function later(learner) {
  if (learner === undefined || stale.size > 20) everything = true;
  else stale.add(learner);
  if (!reading) {
    reading = true;
    setTimeout(readStale, 60);
  }
}

async function readStale() {
  const names = everything ? [undefined] : [...stale];
  everything = false;
  stale.clear();
  try {
    for (const name of names) {
      const found = await read(name === undefined ? "api/class" : `api/class?learner=${encodeURIComponent(name)}`);
      found.learners.forEach(showLearner);
      if (name === undefined) dropOthers(new Set(found.learners.map((learner) => learner.name)));
    }
    showCounts();
    showFaults(await read("api/faults"));
    retry = 500;
  } catch {
    everything = true;
    await new Promise((done) => setTimeout(done, retry));
    retry = Math.min(retry * 2, 15000);
  }
  reading = false;
  if ((everything || stale.size) && stream.readyState !== EventSource.CLOSED) later(everything ? undefined : [...stale][0]);
}
let retry = 500;

// -- showing ----------------------------------------------------------------------------------------------------------

function rowOf(name) {
  let row = rows.get(name);
  if (!row) {
    row = template.cloneNode(true);
    row.dataset.learner = name;
    const link = row.querySelector("th a");
    link.textContent = name;
    link.href = `${prefix}learners/${encodeURIComponent(name)}`;
    rows.set(name, row);
    body.append(row);
    sortRows();
    filterRows();
  }
  return row;
}

function showLearner(learner) {
  const isNew = !rows.has(learner.name);
  const row = rowOf(learner.name);
  learners.set(learner.name, learner);
  let points = 0;
  for (const cell of row.querySelectorAll("td[data-lab]")) {
    const standing = learner.labs[cell.dataset.lab];
    if (!standing) continue;
    points += standing.points;
    showCell(cell, standing, isNew);
  }
  row.querySelector(".total b").textContent = points;
  gradlab.showTime(row.querySelector("time"), learner.last_seen * 1000);
}

function showCell(cell, standing, isNew) {
  const number = cell.querySelector("b");
  const changed = number.textContent !== String(standing.points);
  number.textContent = standing.points;
  cell.querySelector("progress").value = standing.points;
  cell.classList.toggle("untouched", standing.last_at === null);
  cell.classList.toggle("full", standing.last_at !== null && standing.points >= standing.max_points);
  if (changed || (isNew && standing.last_at !== null)) flash(cell);
}

function flash(cell) {
  cell.classList.remove("changed");
  void cell.offsetWidth; // restarts the animation
  cell.classList.add("changed");
  setTimeout(() => cell.classList.remove("changed"), 4000);
}

function dropOthers(names) {
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.remove();
    rows.delete(name);
    learners.delete(name);
  }
}

function showCounts() {
  const all = [...learners.values()];
  const sum = (field) => all.reduce((total, one) => total + Object.values(one.labs).reduce((t, lab) => t + lab[field], 0), 0);
  const now = Date.now() / 1000;
  const counts = {
    learners: all.length,
    active: all.filter((one) => now - one.last_seen < ACTIVE_SECONDS).length,
    passed: sum("passed"),
    points: sum("points"),
  };
  for (const [name, count] of Object.entries(counts)) {
    document.querySelector(`[data-count="${name}"]`).textContent = count.toLocaleString("en");
  }
  document.querySelector("#nobody").hidden = all.length > 0;
}

const faultTemplate = document.querySelector("#fault-template").content.querySelector("li");

function faultLine(fault) {
  const line = faultTemplate.cloneNode(true);
  const link = line.querySelector("a");
  line.dataset.submission = fault.submission;
  link.textContent = fault.learner;
  link.href = `${prefix}learners/${encodeURIComponent(fault.learner)}#attempt-${fault.submission}`;
  line.querySelector(".fault-where").textContent = fault.where;
  gradlab.showProse(line.querySelector(".message"), fault.causes.join("\n"));
  gradlab.showTime(line.querySelector("time"), fault.at * 1000);
  return line;
}

let shownFaults = "";

function showFaults(faults) {
  const found = JSON.stringify(faults);
  if (found === shownFaults) return; // nobody's keyboard focus is lost for nothing
  shownFaults = found;
  document.querySelector("#faults").hidden = faults.count === 0;
  document.querySelector("#faults-heading span").textContent = faults.heading;
  document.querySelector(".faults").replaceChildren(...faults.latest.map(faultLine));
}

function showRunning({ learner, lab, submission, kind }) {
  const key = `${learner}\n${lab}`;
  const ids = running.get(key) ?? new Set();
  if (kind === "accepted") ids.add(submission);
  else ids.delete(submission);
  running.set(key, ids);
  const cell = [...(rows.get(learner)?.querySelectorAll("td[data-lab]") ?? [])].find((one) => one.dataset.lab === lab);
  cell?.classList.toggle("checking", ids.size > 0);
}

// -- the stream -------------------------------------------------------------------------------------------------------

function state(name, words) {
  document.querySelector("#live").dataset.state = name;
  document.querySelector("#live-words").textContent = words;
}

const stream = new EventSource(`${prefix}events?xsrf=${encodeURIComponent(xsrf)}`);
stream.addEventListener("hello", () => {
  state("on", "Live");
  running.clear();
  for (const cell of body.querySelectorAll(".checking")) cell.classList.remove("checking");
  later();
});
stream.addEventListener("class", (message) => {
  const event = JSON.parse(message.data);
  showRunning(event);
  later(event.learner);
});
stream.addEventListener("error", () => {
  if (stream.readyState === EventSource.CLOSED) state("lost", "Not live any more: reload this page");
  else state("off", "Connecting again …");
});
addEventListener("pagehide", () => stream.close());
// A visit and a hint move "last active" without an event.
setInterval(() => {
  if (stream.readyState !== EventSource.CLOSED) later();
}, 20000);

// -- finding and sorting ----------------------------------------------------------------------------------------------

const filter = document.querySelector("#filter");

function filterRows() {
  const wanted = filter.value.trim().toLowerCase();
  for (const [name, row] of rows) row.hidden = !name.toLowerCase().includes(wanted);
}
filter.addEventListener("input", filterRows);

const byName = new Intl.Collator(undefined, { numeric: true });
const measures = {
  points: (row) => Number(row.querySelector(".total b").textContent),
  seen: (row) => Date.parse(row.querySelector("time").dateTime),
  lab: (row, lab) => Number([...row.querySelectorAll("td[data-lab]")].find((one) => one.dataset.lab === lab).querySelector("b").textContent),
};
let order = { kind: "name", lab: undefined, down: false };

function sortRows() {
  const sign = order.down ? -1 : 1;
  const names = (a, b) => byName.compare(a.dataset.learner, b.dataset.learner);
  const measure = measures[order.kind];
  const compare = measure ? (a, b) => sign * (measure(a, order.lab) - measure(b, order.lab)) || names(a, b) : (a, b) => sign * names(a, b);
  body.append(...[...rows.values()].sort(compare));
}

sortRows(); // the server sorts by code points, people read 9 before 10
for (const head of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const again = order.kind === head.dataset.sort && order.lab === head.dataset.lab;
    order = { kind: head.dataset.sort, lab: head.dataset.lab, down: again ? !order.down : head.dataset.sort !== "name" };
    for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    sortRows();
  });
}

// -- GPUs -------------------------------------------------------------------------------------------------------------

const GIB = 2 ** 30;
const gpuTemplate = document.querySelector("#gpu-template").content.querySelector("li");

function amount(value, unit) {
  return value === null ? "—" : `${Math.round(value).toLocaleString("en")}${unit}`;
}

function showMeasure(group, text, value, most) {
  group.querySelector("dd").textContent = text;
  const bar = group.querySelector("progress");
  bar.hidden = value === null || !most;
  if (bar.hidden) return;
  bar.max = most;
  bar.value = value;
}

function gpuCard(one) {
  const card = gpuTemplate.cloneNode(true);
  const [error, facts, climate] = [".device-error", "dl", ".small"].map((part) => card.querySelector(part));
  card.querySelector(".device-name b").textContent = one.index;
  card.querySelector(".device-name span").textContent = one.name ?? "GPU";
  gradlab.showProse(error.querySelector("span"), one.error ?? "");
  const known = one.memory_used !== null && one.memory_total;
  const memory = known ? `${(one.memory_used / GIB).toFixed(1)} of ${(one.memory_total / GIB).toFixed(0)} GiB` : "—";
  showMeasure(card.querySelector("[data-measure=busy]"), amount(one.utilisation, " %"), one.utilisation, 100);
  showMeasure(card.querySelector("[data-measure=memory]"), memory, one.memory_used, one.memory_total);
  climate.textContent = `${amount(one.temperature, " °C")}, ${amount(one.power, " W")}`;
  error.hidden = !one.error;
  facts.hidden = Boolean(one.error);
  climate.hidden = Boolean(one.error) || (one.temperature === null && one.power === null);
  return card;
}

function showGpus(gpu) {
  const line = document.querySelector("#gpu-message");
  gradlab.showProse(line.querySelector("span"), gpu.message);
  line.hidden = !gpu.message;
  line.classList.toggle("tone-warn", gpu.devices.length > 0);
  const list = document.querySelector("#gpu-devices");
  list.replaceChildren(...gpu.devices.map(gpuCard));
  list.hidden = gpu.devices.length === 0;
}

async function followGpus() {
  if (stream.readyState === EventSource.CLOSED) return;
  let pause = 30000;
  if (!document.hidden) {
    try {
      const gpu = await read("api/gpu");
      showGpus(gpu);
      if (gpu.available) pause = 3000;
    } catch {
      // The live line already says that the portal is away.
    }
  }
  setTimeout(followGpus, pause);
}
setTimeout(followGpus, 3000);
