// The page of GPUs goes on from what the server has rendered: every second a view comes, and what has changed is changed.
//
// Words and figures follow the rules of gpucards.py. All times are the server's. Every element stays the one it is for
// as long as what it shows is there, so nothing flickers and nobody's keyboard focus is lost.

"use strict";

const { prefix, xsrf } = document.body.dataset;
const find = (selector, inside = document) => inside.querySelector(selector);
const labs = JSON.parse(find("#templates").dataset.labs);
const MISSING = "—";
const UNREPORTED = "not reported";
const HOUR = 3600;
const COLOURS = 24;

// -- words and figures ------------------------------------------------------------------------------------------------

function span(seconds) {
  if (seconds === null) return MISSING;
  const whole = Math.max(0, Math.trunc(seconds));
  const minutes = Math.trunc(whole / 60);
  const hours = Math.trunc(minutes / 60);
  if (whole < 60) return `${whole} s`;
  if (minutes < 60) return `${minutes} min`;
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.trunc(hours / 24)} d ${hours % 24} h`;
}

function figure(value, unit) {
  return value === null || value === undefined ? UNREPORTED : Math.round(value).toLocaleString("en") + unit;
}

function size(value) {
  if (value === null || value === undefined) return UNREPORTED;
  if (value < 2 ** 10) return `${Math.round(value)} B`;
  if (value < 2 ** 20) return `${Math.round(value / 2 ** 10)} KiB`;
  return value < 2 ** 30 ? `${Math.round(value / 2 ** 20)} MiB` : `${(Math.round((value / 2 ** 30) * 10) / 10).toFixed(1)} GiB`;
}

function of(used, total) {
  if (used === null || total === null || total === undefined) return size(used);
  const [number, unit] = size(used).split(" ");
  const whole = size(total);
  return `${number}${whole.endsWith(` ${unit}`) ? "" : ` ${unit}`} of ${whole}`;
}

const utf8 = new TextEncoder();
const colours = new Map();

function who(learner) {
  if (!colours.has(learner)) {
    let found = 0x811c9dc5;
    for (const byte of utf8.encode(learner)) found = Math.imul(found ^ byte, 0x01000193) >>> 0;
    colours.set(learner, `who-${found % COLOURS}`);
  }
  return colours.get(learner);
}

const lab = (slug) => labs[slug] ?? slug;
const joined = (...words) => words.filter(Boolean).join(", ");
const counted = (count, word, plural) => `${count} ${word}${count === 1 ? "" : plural}`;
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const sum = (values) => values.reduce((total, value) => total + value, 0);

// -- elements that stay -----------------------------------------------------------------------------------------------

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setProse(element, text) {
  if (element.dataset.prose === text) return;
  element.dataset.prose = text;
  gradlab.showProse(element, text);
}

function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function setCells(element, texts, kind = "cell") {
  for (const [name, text] of Object.entries(texts)) setText(find(`[data-${kind}="${name}"]`, element), text);
}

function setPerson(element, name) {
  const link = find("a", element);
  setText(link, name);
  set(link, "href", `${prefix}learners/${encodeURIComponent(name)}`);
}

// The parent's children become those of the items, in their order; each is kept by its key.
function keep(parent, items, make, show) {
  const wanted = new Set(items.map((item) => item.key));
  const found = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) found.set(child.dataset.key, child);
    else child.remove();
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const child = found.get(item.key) ?? make(item);
    child.dataset.key = item.key;
    show(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
}

function copy(id) {
  const blank = find(`#${id}-template`).content.firstElementChild;
  return () => blank.cloneNode(true);
}
const blanks = Object.fromEntries(["card", "row", "slice", "note", "idle", "waiter", "usage"].map((id) => [id, copy(id)]));
const svg = (name) => () => document.createElementNS("http://www.w3.org/2000/svg", name);

// -- the view ---------------------------------------------------------------------------------------------------------

let view = null;

const isKnown = (device) => view.available && device.state === "ok";
const keyOf = (device) => device.uuid ?? `GPU at index ${device.index}`;
const isSame = (one) => (other) => one.learner === other.learner && one.server === other.server;

function showView() {
  const { available, devices } = view;
  const heard = available || devices.length > 0;
  find("#simulated").hidden = !view.simulated;
  setText(find("#driver"), driver());
  showMessage(find("#gpu-message"), view.message);
  showMessage(find("#gpu-problem"), view.problem);
  find("#gpu-message").classList.toggle("tone-warn", heard);
  find("#gpu-now").hidden = !heard;
  find("#gpu-cards").hidden = devices.length === 0;
  setCells(find("#gpu-now"), counts(), "count");
  keep(find("#idle"), view.idle.map((one) => ({ ...one, key: `${one.learner}\n${one.server}` })), blanks.idle, showIdle);
  find("#idle-none").hidden = view.idle.length > 0;
  setText(find("#idle-none"), available ? "Everybody who holds a GPU is using it." : "Not known while there are no figures.");
  keep(find("#line"), view.queue.map((one) => ({ ...one, key: `${one.learner}\n${one.server}` })), blanks.waiter, showWaiter);
  find("#line-none").hidden = view.queue.length > 0;
  setText(find("#mode"), mode());
  keep(find("#gpus"), devices.map((device) => ({ key: keyOf(device), device })), blanks.card, showCard);
}

function driver() {
  if (!view.available && view.driver_version === null) return "";
  const versions = { Driver: "driver_version", CUDA: "cuda_version", NVML: "nvml_version" };
  return Object.entries(versions).map(([name, key]) => `${name} ${view[key] || UNREPORTED}`).join(", ");
}

function mode() {
  const [kind, number] = view.mode.split(":");
  const words = {
    none: "This server gives out no GPUs.",
    exclusive: "A learner gets a whole GPU.",
    shared: `${number} learners share a GPU.`,
    mig: "A learner gets a MIG instance.",
  };
  return words[kind] ?? view.mode;
}

function counts() {
  const on = new Set(view.devices.filter(isKnown).flatMap((device) => device.parts.map((part) => part.learner)));
  const lent = view.mode !== "none";
  return {
    free: lent ? `${view.free} of ${view.slots}` : MISSING,
    on: view.available ? String(on.size) : MISSING,
    idle: view.available ? String(view.idle.length) : MISSING,
    waiting: lent ? String(view.queue.length) : MISSING,
  };
}

function showMessage(line, text) {
  line.hidden = !text;
  setProse(find("span", line), text);
}

function showIdle(line, one) {
  setPerson(line, one.learner);
  setCells(line, { what: placeOf(one.device), seconds: span(one.seconds), lab: lab(one.lab) });
}

function placeOf(uuid) {
  for (const device of view.devices) {
    if (device.uuid === uuid) return `GPU ${device.index}`;
    const slice = (device.mig ?? []).find((one) => one.uuid === uuid);
    if (slice) return `${slice.name || "a slice"} of GPU ${device.index}`;
  }
  return uuid || "a GPU";
}

function showWaiter(line, one) {
  const estimate = one.estimate === null ? "" : `about ${span(one.estimate)} more`;
  setPerson(line, one.learner);
  setCells(line, { position: String(one.position), waits: span(view.at - one.since), estimate });
}

// -- one GPU ----------------------------------------------------------------------------------------------------------

function showCard(card, { device }) {
  const known = isKnown(device);
  const state = find(".gpu-head .verdict", card);
  const error = find(".gpu-error", card);
  setText(find("h3 b", card), `GPU ${device.index}`);
  setText(find("h3 span", card), device.name || "GPU");
  state.hidden = device.state === "ok";
  setText(find("span", state), device.state === "ok" ? "" : device.state[0].toUpperCase() + device.state.slice(1));
  error.hidden = !device.error;
  setProse(error, device.error ?? "");
  keep(find(".gpu-notes", card), notes(device, known), blanks.note, showNote);
  find(".gpu-figures", card).hidden = !known;
  if (known) showFigures(card, device);
  const slices = known ? (device.mig ?? []).map((one) => sliceOf(one, device)) : [];
  const rows = rowsOf(device, known);
  keep(find(".gpu-who tbody", card), rows, blanks.row, showRow);
  find(".gpu-who", card).hidden = rows.length === 0;
  setText(find(".gpu-who caption", card), `Who is on GPU ${device.index}`);
  find(".gpu-nobody", card).hidden = rows.length > 0 || !known;
  keep(find(".gpu-slices tbody", card), slices, blanks.slice, showSlice);
  find(".gpu-slices", card).hidden = slices.length === 0;
  setText(find(".gpu-slices caption", card), `MIG instances of GPU ${device.index}`);
  setCells(card, facts(device), "fact");
}

function showFigures(card, device) {
  const [utilisation, memory] = ["utilisation", "memory"].map((name) => find(`[data-measure="${name}"]`, card));
  setText(find("b", utilisation), figure(device.utilisation, " %"));
  setText(find("b", memory), of(device.memory_used, device.memory_total));
  keep(find("svg", utilisation), utilisationBar(device), svg("rect"), showSegment);
  keep(find("svg", memory), memoryBar(device), svg("rect"), showSegment);
  const power = figure(device.power, " W");
  const limited = device.power !== null && device.power_limit !== null;
  setCells(card, {
    temperature: figure(device.temperature, " °C"),
    power: limited ? `${power} of ${figure(device.power_limit, " W")}` : power,
    clocks: clocks(device.clocks),
  }, "climate");
}

function partsOf(device) {
  const order = (part) => [part.learner, part.server, part.instance ?? ""];
  const keyed = device.parts.map((part) => ({ ...part, key: order(part).join("\n") }));
  return keyed.sort((a, b) => order(a).map((one, at) => compare(one, order(b)[at])).find(Boolean) ?? 0);
}

function utilisationBar(device) {
  if (device.utilisation === null) return [];
  const whole = device.mig !== null; // a learner's percent of a slice is no percent of the GPU
  const found = whole ? [] : partsOf(device).map((part) => [who(part.learner), part.utilisation ?? 0, part.key]);
  if (!whole) found.push(["who-machine", device.machine.utilisation ?? 0, "machine"]);
  const rest = device.utilisation - sum(found.map(([, value]) => value));
  return segments([...found, [whole ? "who-machine" : "who-unknown", rest, "unknown"]], 100);
}

function memoryBar(device) {
  if (device.memory_used === null || !device.memory_total) return [];
  const found = partsOf(device).map((part) => [who(part.learner), part.memory ?? 0, part.key]);
  found.push(["who-machine", device.machine.memory ?? 0, "machine"]);
  const rest = device.memory_used - sum(found.map(([, value]) => value));
  return segments([...found, ["who-unknown", rest, "unknown"]], device.memory_total);
}

function segments(values, whole) {
  const found = [];
  let x = 0;
  for (const [name, value, key] of values) {
    const width = Math.min((100 * Math.max(0, value)) / whole, 100 - x);
    if (width > 0) {
      found.push({ key, name, x, width });
      x += width;
    }
  }
  return found;
}

function showSegment(rect, { name, x, width }) {
  set(rect, "class", name);
  set(rect, "x", x.toFixed(2));
  set(rect, "width", width.toFixed(2));
  set(rect, "height", 1);
}

function rowsOf(device, known) {
  const parts = known ? partsOf(device) : [];
  const since = (one) => (one && one.since !== null ? span(view.at - one.since) : MISSING);
  const names = new Map((device.mig ?? []).map((one) => [one.uuid, one.name || "a slice"]));
  const rows = parts.map((part) => {
    const server = view.servers.find(isSame(part));
    return {
      key: part.key,
      who: who(part.learner),
      learner: part.learner,
      about: joined(lab(part.lab), names.get(part.instance)),
      held: since(device.holders.find(isSame(part))),
      utilisation: figure(part.utilisation, " %"),
      memory: of(part.memory, server?.share),
      over: Boolean(server?.over_share),
    };
  });
  const away = device.holders.filter((one) => !parts.some(isSame(one)));
  away.sort((a, b) => compare(a.learner, b.learner) || compare(a.server, b.server));
  for (const one of away) {
    const about = joined(lab(one.lab), known && "runs nothing on it");
    const key = `${one.learner}\n${one.server}\n`;
    rows.push({ key, who: who(one.learner), learner: one.learner, about, held: since(one), utilisation: MISSING, memory: MISSING });
  }
  return known ? [...rows, ...others(device)] : rows;
}

function others({ machine, unattributed }) {
  const rows = [];
  if (machine.processes) {
    const about = `${counted(machine.processes, "process", "es")} of no learner`;
    const [utilisation, memory] = [figure(machine.utilisation, " %"), size(machine.memory)];
    rows.push({ key: "\nmachine", who: "who-machine", name: "The machine itself", about, held: MISSING, utilisation, memory });
  }
  if (unattributed) {
    const about = "of no process that is known";
    rows.push({ key: "\nunknown", who: "who-unknown", name: "Unattributed", about, held: MISSING, utilisation: MISSING, memory: size(unattributed) });
  }
  return rows;
}

function showRow(row, one) {
  set(find(".swatch", row), "class", `swatch ${one.who}`);
  if (one.learner === undefined) setText(find("a", row), one.name);
  else setPerson(row, one.learner);
  find(".over", row).hidden = !one.over;
  setText(find(".small", row), one.about);
  setCells(row, { held: one.held, utilisation: one.utilisation, memory: one.memory });
}

function sliceOf(one, device) {
  const users = new Set(device.parts.filter((part) => part.instance === one.uuid).map((part) => part.learner));
  const measured = one.utilisation !== null && one.utilisation_by ? ` (${one.utilisation_by.toUpperCase()})` : "";
  return {
    key: one.uuid ?? `${one.gpu_instance}/${one.compute_instance}`,
    name: one.name || "MIG instance",
    users: [...users].sort(compare).join(", ") || "nobody",
    utilisation: figure(one.utilisation, " %") + measured,
    memory: of(one.memory_used, one.memory_total),
    error: one.error ?? "",
  };
}

function showSlice(row, { name, error, users, utilisation, memory }) {
  const why = find('[data-cell="error"]', row);
  setText(find("th span", row), name);
  why.hidden = !error;
  setProse(why, error);
  setCells(row, { users, utilisation, memory });
}

function notes(device, known) {
  const found = [];
  const reasons = (device.throttle_reasons ?? []).filter((reason) => reason !== "idle");
  const errors = device.ecc?.uncorrected;
  if (known && reasons.length) found.push({ key: "throttle", tone: "warn", text: `Its clocks are held back: ${reasons.join(", ")}.` });
  if (known && errors) found.push({ key: "ecc", tone: "fail", text: `${counted(errors, "ECC error", "s")} could not be corrected.` });
  const recent = device.events.filter((event) => view.at - event.at < 86400).sort((a, b) => b.at - a.at).slice(0, 3);
  for (const { at, xid, meaning, application } of recent) {
    const text = `Xid ${xid}, ${span(view.at - at)} ago: ${meaning}${application ? "; a program's own fault" : ""}`;
    found.push({ key: `${at} ${xid}`, tone: application ? "warn" : "fail", text });
  }
  const problems = known ? Object.entries(device.problems).sort(([a], [b]) => compare(a, b)) : [];
  return [...found, ...problems.map(([key, text]) => ({ key, tone: "warn", text }))];
}

function showNote(line, { tone, text }) {
  set(line, "class", `tone-${tone}`);
  setProse(find("span", line), text);
}

const clocks = (found) => `${figure(found?.sm, " MHz")}, memory ${figure(found?.memory, " MHz")}`;

function facts(device) {
  const { ecc, memory_limits: limits, throttle_reasons: reasons, performance_state: state, energy } = device;
  const known = (value) => value !== null && value !== undefined;
  const counted = known(ecc?.corrected) || known(ecc?.uncorrected);
  const errors = counted ? `${figure(ecc.corrected, "")} corrected, ${figure(ecc.uncorrected, "")} not` : UNREPORTED;
  return {
    uuid: device.uuid || UNREPORTED,
    pci: device.pci || UNREPORTED,
    driver_model: device.driver_model || UNREPORTED,
    compute_mode: device.compute_mode || UNREPORTED,
    persistence: known(device.persistence) ? (device.persistence ? "on" : "off") : UNREPORTED,
    performance_state: known(state) ? `P${state}` : UNREPORTED,
    throttle: known(reasons) ? reasons.join(", ") || "nothing" : UNREPORTED,
    max_clocks: clocks(device.max_clocks),
    fan: figure(device.fan, " %"),
    energy: known(energy) ? `${figure(energy / 3600, "")} Wh` : UNREPORTED,
    memory_utilisation: figure(device.memory_utilisation, " %"),
    encoder: `${figure(device.encoder_utilisation, " %")}, ${figure(device.decoder_utilisation, " %")}`,
    reserved: size(device.memory_reserved),
    ecc: ecc?.enabled === false ? "not watched for" : errors,
    limits: known(limits) ? limits.why || (limits.hard ? "enforced" : "none") : UNREPORTED,
  };
}

// -- the past: one number a second, as the server keeps it ------------------------------------------------------------

let past = null; // {from, count, devices: {key: {utilisation, memory, parts: {learner: […]}}}}
let waiting = []; // views that came while the past was being read
let asked = 0;
let askedAt = -Infinity;

async function readPast() {
  const asking = ++asked;
  askedAt = performance.now();
  past = null;
  waiting = [];
  try {
    const found = await read("api/gpu/history");
    if (asking !== asked) return;
    past = found;
    waiting.forEach(takeIn);
    showPast();
  } catch {
    if (asking === asked && stream.readyState === EventSource.OPEN) setTimeout(() => asking === asked && readPast(), 5000);
  }
}

function takeIn(one) {
  if (!past) {
    waiting.push(one);
    return;
  }
  const second = Math.trunc(one.at);
  if (past.count === 0) past.from = second;
  const missed = second - (past.from + past.count);
  if (missed < 0 && missed > -60) return;
  if ((missed > 1 || missed < 0) && performance.now() - askedAt > 10000) {
    readPast(); // the server knows what was in between
    return;
  }
  if (missed < 0) return;
  // One second that falls between two samples has the later one's figures; of more nothing is known.
  for (let left = Math.min(missed, HOUR); left > 0; left -= 1) append(missed > 1 ? { devices: [] } : one);
  append(one);
  if (past.count > HOUR + 300) forget(past.count - HOUR);
}

function append(one) {
  const samples = new Map(one.devices.filter((device) => one.available && device.state === "ok").map((device) => [keyOf(device), device]));
  for (const key of samples.keys()) past.devices[key] ??= { utilisation: blank(), memory: blank(), parts: {} };
  for (const [key, tracks] of Object.entries(past.devices)) {
    const device = samples.get(key);
    const shares = {};
    for (const { learner, utilisation } of device?.parts ?? []) {
      const before = learner in shares ? shares[learner] : 0;
      shares[learner] = before === null || utilisation === null ? null : Math.min(100, before + utilisation);
    }
    tracks.utilisation.push(device?.utilisation ?? null);
    tracks.memory.push(device?.memory_used ?? null);
    for (const learner of Object.keys(shares)) tracks.parts[learner] ??= blank();
    for (const [learner, track] of Object.entries(tracks.parts)) track.push(shares[learner] ?? null);
  }
  past.count += 1;
}

const blank = () => new Array(past.count).fill(null);

function forget(count) {
  for (const [key, tracks] of Object.entries(past.devices)) {
    for (const track of [tracks.utilisation, tracks.memory, ...Object.values(tracks.parts)]) track.splice(0, count);
    for (const [learner, track] of Object.entries(tracks.parts)) if (track.every((value) => value === null)) delete tracks.parts[learner];
    if (tracks.memory.every((value) => value === null) && tracks.utilisation.every((value) => value === null)) delete past.devices[key];
  }
  past.from += count;
  past.count -= count;
}

// -- drawing the past -------------------------------------------------------------------------------------------------

let shownSpan = HOUR;
const columns = { [HOUR]: 600, 300: 300 };
const drawn = new WeakMap(); // card → its columns, for whoever points at one

function showPast() {
  if (!past || !view || document.hidden) return;
  for (const device of view.devices) {
    const card = [...find("#gpus").children].find((one) => one.dataset.key === keyOf(device));
    if (card) showStrip(card, device, past.devices[keyOf(device)]);
  }
}

function showStrip(card, device, tracks) {
  const found = columnsOf(tracks);
  const learners = Object.keys(tracks?.parts ?? {}).filter((learner) => found.some((one) => one.parts[learner] > 0)).sort(compare);
  const picture = find(".strip svg", card);
  set(picture, "viewBox", `0 0 ${found.length} 100`);
  set(find(".strip-known", picture), "d", blocks(found, (one) => (one.gap ? null : 100)));
  set(find(".strip-memory", picture), "d", line(found, (one) => (one.memory === null || !device.memory_total ? null : (100 * one.memory) / device.memory_total)));
  // Each is drawn from the ground up to where it ends, so that the next covers all but its own part.
  const upTo = (one, last) => Math.min(100, sum(learners.slice(0, last).map((learner) => one.parts[learner] ?? 0)));
  const layers = learners.map((learner, at) => ({ key: `of ${learner}`, name: who(learner), height: (one) => (one.used === null ? null : upTo(one, at + 1)) }));
  layers.push({ key: "all", name: "who-unknown", height: (one) => (one.used === null ? null : Math.max(one.used, upTo(one, learners.length))) });
  keep(find(".strip-used", picture), layers.reverse(), svg("path"), (path, { name, height }) => {
    set(path, "class", name);
    set(path, "d", blocks(found, height));
  });
  drawn.set(card, { found, learners });
  const words = stripWords(tracks);
  set(find(".strip", card), "aria-label", `GPU ${device.index} in the last ${shownSpan === HOUR ? "hour" : "5 minutes"}: ${words}`);
  setText(find('[data-axis="from"]', card), shownSpan === HOUR ? "1 h ago" : "5 min ago");
  if (!card.dataset.pointed) setText(find('[data-axis="words"]', card), words);
  showEarlier(card, device, learners);
}

// Means of what is known in each column's seconds. Columns begin at whole multiples, so that they stay what they are.
function columnsOf(tracks) {
  const step = shownSpan / columns[shownSpan];
  const end = past.from + past.count - 1;
  const first = Math.floor(end / step) - columns[shownSpan] + 1;
  return Array.from({ length: columns[shownSpan] }, (_, number) => {
    const begins = (first + number) * step;
    const one = { ago: Math.max(0, end - begins - step + 1), gap: false, used: null, memory: null, parts: {} };
    let [used, full, usedCount, fullCount] = [0, 0, 0, 0];
    for (let second = begins; second < begins + step && second <= end; second += 1) {
      const at = second - past.from;
      const utilisation = tracks?.utilisation[at] ?? null;
      const memory = tracks?.memory[at] ?? null;
      if (utilisation === null && memory === null) one.gap = true;
      if (memory !== null) { full += memory; fullCount += 1; }
      if (utilisation === null) continue;
      used += utilisation;
      usedCount += 1;
      for (const [learner, track] of Object.entries(tracks.parts)) if (track[at]) one.parts[learner] = (one.parts[learner] ?? 0) + track[at];
    }
    if (fullCount) one.memory = full / fullCount;
    if (usedCount) one.used = used / usedCount;
    for (const learner of Object.keys(one.parts)) one.parts[learner] /= usedCount;
    return one;
  });
}

const y = (height) => Number((100 - height).toPrecision(4));

function blocks(found, heightOf) {
  let path = "";
  let open = false;
  found.forEach((one, x) => {
    const height = heightOf(one);
    if (height !== null) path += `${open ? "" : `M${x} 100`}V${y(height)}H${x + 1}`;
    else if (open) path += "V100z";
    open = height !== null;
  });
  return open ? `${path}V100z` : path;
}

function line(found, heightOf) {
  let path = "";
  let open = false;
  found.forEach((one, x) => {
    const height = heightOf(one);
    if (height !== null) path += `${open ? "V" : `M${x} `}${y(height)}H${x + 1}`;
    open = height !== null;
  });
  return path;
}

function stripWords(tracks) {
  const end = past.from + past.count - 1;
  let [used, known, missing] = [0, 0, 0];
  for (let second = end - shownSpan + 1; second <= end; second += 1) {
    const utilisation = tracks?.utilisation[second - past.from] ?? null;
    if (utilisation !== null) { used += utilisation; known += 1; }
    else if ((tracks?.memory[second - past.from] ?? null) === null) missing += 1;
  }
  if (missing === shownSpan) return "no sample";
  return (known ? `average ${Math.round(used / known)} %` : "utilisation not reported") + (missing ? `, no sample in ${span(missing)}` : "");
}

// Whose colours are in the strip and not in the table below it.
function showEarlier(card, device, learners) {
  const now = [...device.holders, ...(isKnown(device) ? device.parts : [])].map((one) => one.learner);
  const earlier = learners.filter((learner) => !now.includes(learner)).map((key) => ({ key }));
  const list = find(".strip-earlier", card);
  list.hidden = earlier.length === 0;
  keep(list, earlier, () => {
    const item = document.createElement("li");
    item.append(document.createElement("span"), document.createElement("span"));
    return item;
  }, (item, { key }) => {
    set(item.firstElementChild, "class", `swatch ${who(key)}`);
    setText(item.lastElementChild, key);
  });
}

// Pointing at the strip tells what it shows there.
find("#gpus").addEventListener("pointermove", ({ target, clientX }) => {
  const strip = target.closest(".strip");
  const { found, learners } = (strip && drawn.get(strip.closest(".gpu"))) ?? {};
  if (!found) return;
  const { left, width } = strip.getBoundingClientRect();
  const one = found[Math.min(found.length - 1, Math.max(0, Math.floor(((clientX - left) / width) * found.length)))];
  const shares = learners.filter((learner) => one.parts[learner] > 0).map((learner) => `${learner} ${Math.round(one.parts[learner])} %`);
  const used = one.used === null ? (one.gap ? "no sample" : UNREPORTED) : `${Math.round(one.used)} %`;
  const card = strip.closest(".gpu");
  card.dataset.pointed = "yes";
  setText(find('[data-axis="words"]', card), `${span(one.ago)} ago: ${[used, ...shares].join("; ")}`);
});
find("#gpus").addEventListener("pointerout", ({ target, relatedTarget }) => {
  const strip = target.closest(".strip");
  if (strip && !strip.contains(relatedTarget)) delete strip.closest(".gpu").dataset.pointed;
});

for (const button of document.querySelectorAll("#spans button")) {
  button.addEventListener("click", () => {
    shownSpan = Number(button.dataset.span);
    for (const other of document.querySelectorAll("#spans button")) other.setAttribute("aria-pressed", other === button);
    showPast();
  });
}
find("#spans").hidden = false;

// -- today ------------------------------------------------------------------------------------------------------------

async function showUsage() {
  if (!view || document.hidden || stream.readyState !== EventSource.OPEN) return;
  const today = new Date(view.at * 1000).toISOString().slice(0, 10);
  let rows;
  try {
    ({ rows } = await read(`api/gpu/usage?since=${today}`));
  } catch {
    return; // it is asked again in a while
  }
  rows.sort((a, b) => b.held - a.held || compare(a.learner, b.learner) || compare(a.lab, b.lab));
  setText(find("#today"), `${today} UTC`);
  set(find("#usage-csv"), "href", `${prefix}api/gpu/usage?since=${today}&format=csv&xsrf=${encodeURIComponent(xsrf)}`);
  find("#usage-none").hidden = rows.length > 0;
  keep(find("#usage"), rows.map((one) => ({ ...one, key: `${one.learner}\n${one.lab}` })), blanks.usage, (row, one) => {
    const share = one.held ? figure((100 * one.busy) / one.held, " %") : MISSING;
    setPerson(row, one.learner);
    setCells(row, { lab: lab(one.lab), held: span(one.held), busy: span(one.busy), share, peak: size(one.peak) });
  });
}
setInterval(showUsage, 15000);

// -- the stream -------------------------------------------------------------------------------------------------------

const SILENT_MS = 8000;
let heardAt = 0;

function state(name, words) {
  find("#live").dataset.state = name;
  setText(find("#live-words"), words);
}

async function read(path) {
  const answer = await fetch(prefix + path, { headers: { "X-XSRF-Token": xsrf }, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) {
    stream.close();
    state("lost", "Logged out: reload this page to log in again");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

const stream = new EventSource(`${prefix}events/gpu?xsrf=${encodeURIComponent(xsrf)}`);
stream.addEventListener("hello", () => {
  heardAt = performance.now();
  readPast(); // nobody knows here what was while there was no stream
});
stream.addEventListener("gpu", ({ data }) => {
  const first = view === null;
  view = JSON.parse(data);
  heardAt = performance.now();
  state("on", "Live");
  takeIn(view);
  if (document.hidden) return;
  showView();
  showPast();
  if (first) showUsage();
});
stream.addEventListener("error", () => {
  if (stream.readyState === EventSource.CLOSED) state("lost", "Not live any more: reload this page");
  else state("off", "Connecting again …");
});
setInterval(() => {
  const quiet = performance.now() - heardAt > SILENT_MS;
  if (quiet && stream.readyState === EventSource.OPEN) state("off", "Nothing new is heard: what you see is older");
}, 2000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !view) return;
  showView();
  showPast();
  showUsage();
});
addEventListener("pagehide", () => stream.close());
