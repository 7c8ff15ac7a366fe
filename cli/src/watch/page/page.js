// The live page: asks for memory.json once a second and draws what it says. Nothing comes from elsewhere.
"use strict";

const KEPT = 300; // samples: five minutes
const PURPOSES = 6; // with a colour of their own
const history = [];
let failures = 0;

const $ = (id) => document.getElementById(id);

function element(name, attributes, ...children) {
  const svg = ["path", "line", "text"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = Math.abs(bytes);
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return (bytes < 0 ? "−" : "") + value.toFixed(digits) + " " + units[unit];
}

// What is stacked at one moment: name to bytes, from the bottom up.
function layers(sample) {
  const purposes = Object.entries(sample.books.purposes).map(([name, of]) => [name, of.inuse]);
  return { purposes, tables: tables(sample.books.accounts), free: sample.books.accounts.free + sample.books.accounts.cached };
}

function tables(accounts) {
  return Object.entries(accounts).filter(([name]) => name.startsWith("metadata/")).reduce((sum, [, n]) => sum + n, 0);
}

// The purposes with a colour of their own: the largest of all that is shown. A colour stays with its purpose.
const colours = new Map();
function coloured() {
  const most = new Map();
  for (const moment of history)
    for (const [name, bytes] of moment.purposes) most.set(name, Math.max(most.get(name) || 0, bytes));
  const names = [...most].filter(([, bytes]) => bytes > 0).sort((a, b) => b[1] - a[1]).slice(0, PURPOSES).map(([name]) => name);
  for (const name of [...colours.keys()]) if (!names.includes(name)) colours.delete(name);
  for (const name of names)
    if (!colours.has(name)) {
      const taken = new Set(colours.values());
      colours.set(name, [0, 1, 2, 3, 4, 5].find((n) => !taken.has(n)));
    }
  return names.sort((a, b) => colours.get(a) - colours.get(b));
}

function bands(names) {
  const all = names.map((name) => ({
    name, colour: `var(--c${colours.get(name)})`,
    of: (moment) => (moment.purposes.find(([other]) => other === name) || [0, 0])[1],
  }));
  const rest = (moment) => moment.purposes.filter(([name]) => !names.includes(name)).reduce((sum, [, n]) => sum + n, 0);
  if (history.some((moment) => rest(moment) > 0)) all.push({ name: "other purposes", colour: "var(--c6)", of: rest });
  all.push({ name: "tables", colour: "var(--tables)", of: (moment) => moment.tables });
  all.push({ name: "free, kept", colour: "var(--free)", of: (moment) => moment.free });
  return all;
}

// A step of 1, 2, 4, 8 … of a binary unit, so that at most five lines are drawn.
function scale(most) {
  let step = 1;
  while (step * 5 < most) step *= 2;
  return { step, top: Math.max(1, Math.ceil(most / step)) * step };
}

function drawTime() {
  const svg = $("time");
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  const [left, right, up, down] = [64, 10, 18, 24];
  const all = bands(coloured());
  const sums = history.map((moment) => all.reduce((sum, band) => sum + band.of(moment), 0));
  const { step, top } = scale(Math.max(1, ...sums, ...history.map((moment) => moment.process)));
  const end = history[history.length - 1].time;
  const span = Math.max(60, (end - history[0].time) / 1000);
  const x = (moment) => left + (width - left - right) * (1 - (end - moment.time) / 1000 / span);
  const y = (bytes) => up + (height - up - down) * (1 - bytes / top);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  for (let bytes = 0; bytes <= top; bytes += step) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(bytes), y2: y(bytes) }));
    svg.append(element("text", { x: left - 8, y: y(bytes) + 4, "text-anchor": "end" }, size(bytes)));
  }
  const marks = width < 500 ? 2 : 5;
  for (let mark = 0; mark <= marks; mark += 1) {
    const seconds = Math.round(span * (1 - mark / marks));
    const anchor = mark === 0 ? "start" : mark === marks ? "end" : "middle";
    const at = left + (width - left - right) * mark / marks;
    svg.append(element("text", { x: at, y: height - 6, "text-anchor": anchor }, seconds === 0 ? "now" : `${seconds} s ago`));
  }
  let floor = history.map(() => 0);
  for (const band of all) {
    const ceiling = history.map((moment, i) => floor[i] + Math.max(0, band.of(moment)));
    const line = (heights) => history.map((moment, i) => `${x(moment).toFixed(1)},${y(heights[i]).toFixed(1)}`);
    svg.append(element("path", { d: `M${line(ceiling).join("L")}L${line(floor).reverse().join("L")}Z`, fill: band.colour }));
    floor = ceiling;
  }
  const process = history.map((moment) => `${x(moment).toFixed(1)},${y(moment.process).toFixed(1)}`);
  svg.append(element("path", { class: "rss", d: "M" + process.join("L") }));
  const now = history[history.length - 1];
  const items = all.map((band) => {
    const mark = element("i");
    mark.style.background = band.colour;
    return element("li", {}, mark, band.name + " ", element("b", {}, size(band.of(now))));
  });
  items.push(element("li", {}, element("i", { class: "rss" }), "process, resident ", element("b", {}, size(now.process))));
  $("legend").replaceChildren(...items);
}

function drawFall(fall) {
  const largest = Math.max(fall.process, fall.committed, 1);
  const step = (name, bytes, why, pieces) => {
    const bar = element("div", { class: "bar" });
    for (const [kind, part] of pieces || [["", bytes]]) {
      const piece = element("i", { class: kind });
      piece.style.width = `${100 * Math.max(0, part) / largest}%`;
      bar.append(piece);
    }
    return element("div", { class: "step" }, element("span", {}, name), bar, element("b", {}, size(bytes)), element("small", {}, why));
  };
  const { least, most } = fall.requested;
  const untouched = fall.committed - fall.resident;
  const notOurs = fall.process - fall.resident;
  $("fall").replaceChildren(
    step("requested", least, `at least; at most ${size(most)}`, [["", least], ["maybe", most - least]]),
    step("in blocks", fall.in_blocks, `up to ${size(fall.in_blocks - least)} more: sizes are rounded up`),
    step("in spans", fall.in_spans, `${size(fall.in_spans - fall.in_blocks)} more: free blocks in spans`),
    step("committed", fall.committed, `${size(fall.free)} more: free pages; ${size(fall.metadata)}: tables`),
    step("resident", fall.resident, untouched >= 0 ? `${size(untouched)} less: never touched` : `${size(-untouched)} more: touched since released`),
    step("process", fall.process, `${size(notOurs)} more: not the heap's`, [["", fall.resident], ["others", notOurs]]),
  );
  const share = (bytes) => `${(100 * bytes / Math.max(1, fall.process)).toFixed(1)} %`;
  const row = (name, bytes, ours) => element("tr", ours ? { class: "ours" } : {},
    element("td", {}, name), element("td", { class: "n" }, size(bytes)), element("td", { class: "n" }, share(bytes)));
  const shown = fall.parts.filter((part) => part.ours || part.resident * 100 >= fall.process);
  const rest = fall.parts.filter((part) => !shown.includes(part)).reduce((sum, part) => sum + part.resident, 0);
  const rows = shown.map((part) => row(part.owner, part.resident, part.ours));
  if (rest > 0) rows.push(row("smaller parts", rest));
  rows.push(row("unattributed", fall.unattributed));
  $("parts").tBodies[0].replaceChildren(...rows);
}

function drawPurposes(purposes) {
  const used = Object.entries(purposes).filter(([, of]) => of.allocated > 0 || of.refused > 0 || of.limit !== null);
  used.sort((a, b) => b[1].inuse - a[1].inuse);
  const cell = (text) => element("td", { class: "n" }, text);
  $("purposes").tBodies[0].replaceChildren(...used.map(([name, of]) => element("tr", {}, element("td", {}, name),
    cell(size(of.inuse)), cell(of.spans.toLocaleString()), cell(size(of.peak)),
    cell(of.limit === null ? "–" : size(of.limit)), cell(of.refused.toLocaleString()))));
}

function say(text, bad) {
  $("state").textContent = text;
  $("state").className = bad ? "bad" : "";
}

function draw(sample) {
  history.push({ time: sample.time, process: sample.process, ...layers(sample) });
  while (history.length > KEPT) history.shift();
  $("who").textContent = `${sample.books.command} · pid ${sample.books.pid}`;
  document.title = `${size(sample.process)} · ${sample.books.command}`;
  const whole = sample.books.check === "ok";
  say(whole ? `books balanced · ${size(sample.books.metrics["/memory/committed:bytes"])} committed, ${size(sample.process)} resident` : `books not balanced: ${sample.books.check}`, !whole);
  drawTime();
  drawFall(sample.waterfall);
  drawPurposes(sample.books.purposes);
  $("release").hidden = !sample.control;
  if (sample.released.done !== 0) $("released").textContent = `${size(sample.released.sum)} released on request`;
}

async function tick() {
  let pause = 1000;
  try {
    const answer = await fetch("memory.json", { cache: "no-store" });
    if (answer.status === 410) return say("the process has ended", true);
    if (!answer.ok) throw new Error(await answer.text());
    draw(await answer.json());
    failures = 0;
  } catch (error) {
    failures += 1;
    say(`no answer: ${error.message}`, true);
    pause = Math.min(10000, 1000 * failures);
  }
  setTimeout(tick, pause);
}

$("release").addEventListener("click", async () => {
  const answer = await fetch("release", { method: "POST", headers: { "X-Spanheap": "release" } });
  $("released").textContent = answer.ok ? "asked; done when the program next needs memory" : await answer.text();
});
addEventListener("resize", () => { if (history.length > 0) drawTime(); });
tick();
