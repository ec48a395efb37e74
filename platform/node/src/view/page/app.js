"use strict";
// One page of one node: what it is sent by /live it shows, and asks /api/why when something is clicked.
const $ = id => document.getElementById(id), root = document.documentElement;
const el = (name, text, cls) => { const e = document.createElement(name); if (text != null) e.textContent = text; if (cls) e.className = cls; return e };
const svg = (name, attrs) => { const e = document.createElementNS("http://www.w3.org/2000/svg", name); for (const k in attrs) e.setAttribute(k, attrs[k]); return e };
const css = name => getComputedStyle(root).getPropertyValue(name).trim();
root.dataset.theme = /theme=(dark|light)/.exec(location.hash)?.[1] ?? (matchMedia("(prefers-color-scheme:dark)").matches ? "dark" : "light");
const PARTS = ["engine", "diagnosis", "log", "leases", "programs", "host", "operator"];
const MOST = 6000;
let S = null, at = 0, ahead = 0, events = [], byId = new Map(), on = PARTS.map(() => true), span = 120, sel = null, asked = null;

const two = (n, w = 2) => String(n).padStart(w, "0");
const clock = us => { const d = new Date(us / 1000); return two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds()) + "." + two(d.getMilliseconds(), 3) };
const span_of = ms => ms == null ? "–" : ms < 1000 ? ms + " ms" : ms < 60e3 ? (ms / 1e3).toFixed(1) + " s" : ms < 7.2e6 ? Math.floor(ms / 6e4) + " min" : ms < 1.728e8 ? Math.floor(ms / 3.6e6) + " h" : Math.floor(ms / 8.64e7) + " d";
const now = () => Date.now() * 1000 + ahead;
const node_name = n => n == null ? "nobody" : "node " + n;

function show(id, rows) { $(id).replaceChildren(...rows) }

function status(s) {
  S = s; at = performance.now(); ahead = s.wall_us - Date.now() * 1000;
  document.title = "Apus · cluster " + s.cluster + " · " + s.health;
  $("cluster").textContent = "cluster " + s.cluster + ", seen by node " + s.node;
  $("health").textContent = s.health;
  $("health").className = "pill " + (s.health === "good" ? "good" : s.health === "degraded" ? "odd" : "bad");
  const q = s.quorum || { up: 0, of: 0 }, facts = [["coordinator", node_name(s.coordinator)], ["term", s.term], ["epoch", s.epoch], ["log", s.commit != null ? "#" + s.commit : null], ["voters up", q.up + " of " + q.of]];
  show("facts", facts.filter(f => f[1] != null).map(([k, v]) => { const d = el("div"); d.append(el("dt", k), el("dd", v)); return d }));
  const alarms = s.alarms || [];
  $("alarms").hidden = !alarms.length;
  show("alarms", alarms.map(a => { const li = el("li", null, a.level); li.append(el("b", a.what), el("small", a.mend)); return li }));
  // What has the keyboard keeps it.
  const key = document.activeElement?.dataset?.key;
  ring(); leases(); services(); draw();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function ring() {
  const g = $("ring"), nodes = S.nodes || [], many = nodes.length, cx = 200, cy = 165, R = many > 1 ? 112 : 0, r = many > 12 ? 17 : 27;
  const place = new Map(nodes.map((n, i) => { const a = -Math.PI / 2 + i * 2 * Math.PI / many; return [n.node, [cx + R * Math.cos(a), cy + R * Math.sin(a), a]] }));
  const out = [];
  const defs = svg("defs", {}), m = svg("marker", { id: "a", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" });
  m.append(svg("path", { d: "M0 0L8 4L0 8z" })); defs.append(m); out.push(defs);
  for (const [from, to] of S.tests || []) {
    const a = place.get(from), b = place.get(to); if (!a || !b) continue;
    const dx = b[0] - a[0], dy = b[1] - a[1], d = Math.hypot(dx, dy) || 1, ux = dx / d, uy = dy / d, bend = 13;
    const mx = (a[0] + b[0]) / 2 - uy * bend, my = (a[1] + b[1]) / 2 + ux * bend;
    out.push(svg("path", { class: "edge", d: `M${a[0] + ux * r} ${a[1] + uy * r}Q${mx} ${my} ${b[0] - ux * (r + 4)} ${b[1] - uy * (r + 4)}`, "marker-end": "url(#a)" }));
  }
  for (const n of nodes) {
    const [x, y, a] = place.get(n.node), up = many > 1 && Math.sin(a) < -.2;
    const box = svg("g", { class: "node " + n.status + (n.drained ? " drained" : ""), tabindex: 0, role: "button", "aria-label": node_name(n.node) + " is " + n.status, "data-key": "n" + n.node });
    box.append(svg("circle", { cx: x, cy: y, r }));
    const name = svg("text", { x, y: y + 5 }); name.textContent = (n.coordinator ? "★ " : "") + n.node; box.append(name);
    const roles = [n.coordinator ? "coordinates" : "", n.dispatcher ? "has the address" : ""].filter(x => x).join(", ");
    const held = (S.leases || []).filter(l => l.holder === n.node).length;
    const sub = [n.status !== "up" ? n.status : "", n.maintenance ? "in maintenance" : n.drained ? "drained" : "", held ? held + (held > 1 ? " leases" : " lease") : "", !n.voter && n.member ? "no vote" : ""].filter(x => x).join(", ") || n.status;
    const t1 = svg("text", { x, y: up ? y - r - 19 : y + r + 15, class: "sub" }), t2 = svg("text", { x, y: up ? y - r - 6 : y + r + 28, class: "role" });
    t1.textContent = sub; t2.textContent = roles; box.append(t1, t2);
    box.onclick = () => why("n" + n.node); box.onkeydown = e => { if (e.key === "Enter") why("n" + n.node) };
    box.onmousemove = e => tip(e, node_name(n.node) + ", " + n.address + "\nlife " + n.life + (n.up_s != null ? ", daemon up " + span_of(n.up_s * 1000) : "") + "\nterm " + (n.term ?? "?") + ", log #" + (n.commit ?? "?") + (n.clock_us ? "\nclock " + (n.clock_us / 1000).toFixed(1) + " ms ahead" : "") + (n.answers ? "" : "\nit does not tell how it is"));
    box.onmouseleave = () => tip(null);
    out.push(box);
  }
  g.replaceChildren(...out);
}

function leases() {
  const all = S.leases || [];
  if (!all.length) return show("leases", [el("div", "nothing is held in this cluster", "empty")]);
  show("leases", all.map(l => {
    const b = el("button", null, "lease"), bar = el("span", null, "bar"), fill = el("i"), left = el("span", "", "r dim");
    bar.append(fill);
    b.append(el("b", l.name), l.holder == null ? el("span", "nobody", "bad") : el("span", node_name(l.holder)), el("span", l.epoch == null ? "" : "epoch " + l.epoch, "dim"), bar, left);
    b.onclick = () => why(l.name === "the address" ? "vip" : l.name);
    b.dataset.key = "l" + l.resource; b.lease = l; b.fill = fill; b.left = left; b.bar = bar;
    return b;
  }));
  shrink();
}

// Between two words of the node, what is left gets less; a lease is renewed long before it ends.
function shrink() {
  for (const b of $("leases").children) {
    const l = b.lease; if (!l) continue;
    const left = l.left_ms == null ? null : Math.max(0, l.left_ms - (performance.now() - at));
    b.fill.style.width = left == null ? "0" : Math.min(100, left / l.lease_ms * 100) + "%";
    b.bar.classList.toggle("low", left != null && left < l.lease_ms * .15);
    b.left.textContent = l.holder == null ? "" : l.moving ? "moving" : left == null ? "not known" : Math.round(left) + " ms left";
  }
}

function services() {
  const rows = S.services || [], body = $("services").tBodies[0];
  if (!rows.length) { const tr = el("tr"), td = el("td", "no service is configured", "empty"); td.colSpan = 8; tr.append(td); return body.replaceChildren(tr) }
  body.replaceChildren(...rows.map(r => {
    const tr = el("tr"), key = r.name + "." + r.slot, good = r.state === "ready", bad = /backing|given|hung|nobody/.test(r.state);
    const copies = (r.copies || []).filter(c => c.node !== r.node).map(c => c.node + " " + c.state).join(", ");
    const cells = [[r.name + "." + r.slot], [r.node == null ? "–" : r.node], [r.state, good ? "good" : bad ? "bad" : "odd"], [r.pid ?? "–", "n"], [span_of(r.running_ms), "n"], [r.restarts ?? "–", "n"], [copies || "–"], [r.last_end ? r.last_end + ", " + span_of(r.last_end_ms_ago) + " ago" : "–", "dim"]];
    for (const [t, c] of cells) tr.append(el("td", t, c));
    tr.tabIndex = 0; tr.dataset.key = key; tr.onclick = () => why(key); tr.onkeydown = e => { if (e.key === "Enter") why(key) };
    return tr;
  }));
}

function journal(more) {
  for (const e of more) { events.push(e); if (e.id) byId.set(e.id, e) }
  events.sort((a, b) => a.at_us - b.at_us || a.node - b.node || a.seq - b.seq);
  while (events.length > MOST) { const e = events.shift(); if (e.id) byId.delete(e.id) }
  list(); draw();
  if (asked && more.length) why(asked, true);
}

function causes(e) {
  const seen = new Set(), open = [e.id];
  while (open.length) { const id = open.pop(), x = byId.get(id); if (x && !seen.has(id)) { seen.add(id); open.push(...(x.because || [])) } }
  return seen;
}

const quiet = e => /^(committed|follows|voted|polls|heard)$/.test(e.kind);
function list() {
  const word = $("filter").value.toLowerCase(), chain = sel ? causes(sel) : null;
  const shown = events.filter(e => on[PARTS.indexOf(e.part)] !== false && (word || !quiet(e) || chain?.has(e.id)) && (!word || (e.text + " " + e.kind + " node " + e.node).toLowerCase().includes(word))).slice(-400).reverse();
  show("events", shown.map(e => {
    const li = el("li", null, (e === sel ? "sel " : "") + (chain?.has(e.id) ? "cause" : "")), t = el("span", e.text, e.level === "error" ? "bad" : e.level === "warning" ? "odd" : "");
    li.append(el("span", clock(e.at_us), "t"), el("span", node_name(e.node)), t);
    li.title = "its own clock: " + clock(e.wall_us) + ", term " + e.term + ", log #" + e.index + (e.id ? ", " + e.id : "");
    li.onclick = () => { sel = sel === e ? null : e; list(); draw() };
    return li;
  }));
}

async function why(of, again) {
  asked = of;
  const answer = await fetch("api/why?of=" + encodeURIComponent(of)).catch(() => null);
  if (!answer || asked !== of) return;
  const box = $("why");
  $("why-title").textContent = "Why: " + of;
  if (!answer.ok) return box.replaceChildren(el("p", (await answer.text()).trim(), "dim"));
  const w = await answer.json(), ol = el("ol"), first = w.steps[0]?.at_us ?? 0;
  if (w.left_out) ol.append(el("li", "… " + w.left_out + " earlier steps"));
  for (const s of w.steps) {
    const li = el("li");
    li.append(el("span", clock(s.at_us), "t"), el("span", "+" + ((s.at_us - first) / 1e6).toFixed(3), "t"), el("span", node_name(s.node)), el("span", s.text));
    li.title = "its own clock: " + clock(s.wall_us) + ", term " + s.term + ", log #" + s.index + (s.ids.length ? ", " + s.ids.join(" ") : "");
    ol.append(li);
  }
  const more = [];
  if (w.outage_us != null) more.push("From the first lost probe until somebody held it: " + Math.round(w.outage_us / 1000) + " ms.");
  if (w.missing.length) more.push("Journals that are missing: " + w.missing.map(m => node_name(m.node) + " (" + m.why + ")").join(", ") + ".");
  box.replaceChildren(el("h3", w.headline), ol, ...more.map(t => el("p", t, "dim")));
  if (!again) $("why-box").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

// Who held what from when to when: from the journals, and until now by the status.
function holds() {
  const open = new Map(), out = [];
  const end = (r, t) => { const h = open.get(r); if (h) { h.to = Math.min(h.to, t); open.delete(r) } };
  for (const e of events) {
    const r = e.resource; if (r == null) continue;
    if (e.kind === "armed") { end(r, e.at_us); const h = { r, name: e.name, node: e.node, epoch: e.epoch, from: e.at_us, to: Infinity }; open.set(r, h); out.push(h) }
    else if ((e.kind === "expired" || e.kind === "released") && open.get(r)?.node === e.node && open.get(r)?.epoch === e.epoch) end(r, e.at_us);
    else if (e.kind === "granted" && open.get(r) && e.epoch > open.get(r).epoch) end(r, e.at_us);
  }
  for (const h of out) if (h.to === Infinity) { const l = (S?.leases || []).find(l => l.resource === h.r); if (!l || l.holder !== h.node || l.epoch !== h.epoch) h.to = h.from }
  return out;
}
const hue = (i, n) => `hsl(${Math.round(212 + i * 360 / Math.max(n, 1)) % 360} 52% ${root.dataset.theme === "dark" ? 60 : 46}%)`;

let hot = [];
function draw() {
  if (!S) return;
  const c = $("time"), g = c.getContext("2d"), nodes = (S.nodes || []).map(n => n.node), dpr = devicePixelRatio || 1;
  const resources = [...new Set((S.leases || []).map(l => l.resource))], lane = Math.max(6, Math.min(13, 40 / Math.max(1, resources.length)));
  const H = Math.max(38, resources.length * (lane + 1) + 20), L = 66, R = 12, T = 6, W = c.clientWidth, h = T + nodes.length * H + 24;
  c.width = W * dpr; c.height = h * dpr; c.style.height = h + "px"; g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, W, h);
  const b = now(), a = b - span * 1e6, X = t => L + (t - a) / (b - a) * (W - L - R), Y = n => T + nodes.indexOf(n) * H;
  hot = []; g.font = "12px system-ui,sans-serif"; g.textBaseline = "middle";
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900].find(s => (W - L - R) / (span / s) > 76) * 1e6;
  g.textAlign = "center";
  for (let t = Math.ceil(a / step) * step; t <= b; t += step) { const x = X(t); g.strokeStyle = css("--line"); g.beginPath(); g.moveTo(x, T); g.lineTo(x, h - 20); g.stroke(); g.fillStyle = css("--dim"); g.fillText(clock(t).slice(0, 8), Math.min(Math.max(x, L + 26), W - 30), h - 9) }
  for (const n of nodes) {
    g.fillStyle = css("--life"); g.beginPath(); g.roundRect(L, Y(n) + 3, W - L - R, H - 6, 5); g.fill();
    g.fillStyle = css("--fg"); g.textAlign = "right"; g.font = "600 12.5px system-ui,sans-serif"; g.fillText("node " + n, L - 9, Y(n) + H / 2); g.font = "12px system-ui,sans-serif";
  }
  g.save(); g.beginPath(); g.rect(L, 0, W - L - R, h); g.clip();
  // A node that others call down.
  const down = new Map();
  const shade = (n, from, to) => { if (!nodes.includes(n)) return; g.fillStyle = css("--bad"); g.globalAlpha = .16; g.fillRect(X(from), Y(n) + 3, Math.max(1, X(to) - X(from)), H - 6); g.globalAlpha = 1 };
  for (const e of events) if (e.kind === "down" && !down.has(e.about)) down.set(e.about, e.at_us); else if (e.kind === "up" && down.has(e.about)) { shade(e.about, down.get(e.about), e.at_us); down.delete(e.about) }
  for (const [n, t] of down) if ((S.nodes || []).find(x => x.node === n)?.status === "down") shade(n, t, b);
  for (const hd of holds()) {
    const i = resources.indexOf(hd.r), to = Math.min(hd.to, b); if (i < 0 || to < a || !nodes.includes(hd.node)) continue;
    const x = X(Math.max(hd.from, a)), w = Math.max(2, X(to) - x), y = Y(hd.node) + 5 + i * (lane + 1);
    g.fillStyle = hue(i, resources.length); g.beginPath(); g.roundRect(x, y, w, lane - 1, 3); g.fill();
    if (w > 90 && lane >= 11) { g.fillStyle = css("--panel"); g.textAlign = "left"; g.font = "600 10px system-ui,sans-serif"; g.fillText(hd.name + " e" + hd.epoch, x + 5, y + lane / 2); g.font = "12px system-ui,sans-serif" }
    hot.push([x, y, x + w, y + lane, node_name(hd.node) + " holds " + hd.name + " by epoch " + hd.epoch + "\nfrom " + clock(hd.from) + (hd.to === Infinity ? " until now" : " to " + clock(to))]);
  }
  const chain = sel ? causes(sel) : null;
  if (chain) for (const id of chain) { const e = byId.get(id); for (const w of e.because || []) { const p = byId.get(w); if (p && nodes.includes(p.node)) { g.strokeStyle = css("--accent"); g.lineWidth = 1.5; g.beginPath(); g.moveTo(X(p.at_us), Y(p.node) + H - 9); g.lineTo(X(e.at_us), Y(e.node) + H - 9); g.stroke() } } }
  for (const e of events) {
    const p = PARTS.indexOf(e.part); if (e.at_us < a || on[p] === false || !nodes.includes(e.node) || (quiet(e) && !chain?.has(e.id))) continue;
    const x = X(e.at_us), y = Y(e.node) + H - 9, hit = chain?.has(e.id);
    g.fillStyle = css("--p" + Math.max(0, p)); g.globalAlpha = chain && !hit ? .3 : 1; g.beginPath(); g.arc(x, y, hit ? 5 : 3.4, 0, 7); g.fill(); g.globalAlpha = 1;
    if (e === sel) { g.strokeStyle = css("--fg"); g.lineWidth = 1.4; g.stroke() }
    hot.push([x - 5, y - 5, x + 5, y + 5, clock(e.at_us) + "  " + node_name(e.node) + "\n" + e.text, e]);
  }
  g.restore();
}

function tip(ev, text) { const t = $("tip"); t.style.display = ev && text ? "block" : "none"; if (ev && text) { t.textContent = text; t.style.left = Math.min(innerWidth - t.offsetWidth - 8, ev.clientX + 14) + "px"; t.style.top = Math.min(innerHeight - t.offsetHeight - 8, ev.clientY + 14) + "px" } }
const under = ev => { const r = $("time").getBoundingClientRect(), x = ev.clientX - r.left, y = ev.clientY - r.top; return hot.slice().reverse().find(h => x >= h[0] && x <= h[2] && y >= h[1] && y <= h[3]) };
$("time").onpointermove = ev => tip(ev, under(ev)?.[4]);
$("time").onpointerleave = () => tip(null);
$("time").onclick = ev => { const e = under(ev)?.[5]; sel = e && e !== sel ? e : null; list(); draw() };
$("filter").oninput = list;
$("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; draw() };
for (const [label, s] of [["30 s", 30], ["2 min", 120], ["10 min", 600], ["1 h", 3600]]) { const b = el("button", label); b.onclick = () => { span = s; press(); draw() }; b.span = s; $("windows").append(b) }
const press = () => { for (const b of $("windows").children) b.setAttribute("aria-pressed", b.span === span) };
press();
PARTS.forEach((p, i) => { const b = el("button"), d = el("i"); d.style.background = "var(--p" + i + ")"; b.append(d, p); b.setAttribute("aria-pressed", true); b.onclick = () => { on[i] = !on[i]; b.setAttribute("aria-pressed", on[i]); list(); draw() }; $("parts").append(b) });
addEventListener("resize", draw);
const asks = /why=([^&]+)/.exec(location.hash)?.[1];
if (asks) why(decodeURIComponent(asks), true);

let began = false;
if (typeof FIRST === "object") { status(FIRST.status); journal(FIRST.events); began = true }
const live = new EventSource("live");
live.onopen = () => { $("live").textContent = "live"; $("live").className = "pill on"; if (began) { events = []; byId.clear() } began = true };
live.onerror = () => { $("live").textContent = "no connection"; $("live").className = "pill off" };
live.addEventListener("status", e => status(JSON.parse(e.data)));
live.addEventListener("journal", e => journal(JSON.parse(e.data)));
setInterval(() => { if (S) { shrink(); draw() } }, 100);
