// The side panel: everything known of one node, asked for when it opens and when the node changes.

import { age, byId, bytes, clockTime, duration, el, mark, number, percent } from "./dom.js";
import { waysSection, whySections } from "./why.js";

const REFRESH_MILLISECONDS = 1000;

export class Panel {
  constructor(onClose) {
    this.root = byId("panel");
    this.onClose = onClose;
    this.name = null;
    this.asked = 0;
    addEventListener("keydown", (event) => event.key === "Escape" && this.name && this.close());
  }

  async open(name) {
    this.name = name;
    this.root.hidden = false;
    document.body.classList.add("with-panel");
    this.root.setAttribute("aria-label", `Node ${name}`);
    this.root.replaceChildren(this.head(name), el("p", { class: "quiet", text: "Reading …" }));
    this.root.focus({ preventScroll: true });
    await this.load();
    this.root.scrollTop = 0;
  }

  close() {
    const name = this.name;
    this.name = null;
    this.root.hidden = true;
    document.body.classList.remove("with-panel");
    this.onClose(name);
  }

  // Many changes within a second cost one request.
  changed(names) {
    if (!this.name || this.timer || !names.includes(this.name)) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.load();
    }, REFRESH_MILLISECONDS);
  }

  async load() {
    const name = this.name;
    if (!name) return;
    const ask = ++this.asked;
    let content;
    try {
      const path = `/api/v1/nodes/${encodeURIComponent(name)}`;
      const [response, reasons] = await Promise.all([fetch(path), fetch(`${path}/explain`)]);
      const detail = await response.json();
      const why = reasons.ok ? await reasons.json() : null;
      content = response.ok ? sections(detail, why) : [el("p", { class: "quiet", text: detail.error })];
      if (ask !== this.asked || name !== this.name) return;
      this.fill(response.ok ? this.head(name, detail) : this.head(name), content);
    } catch {
      if (ask !== this.asked || name !== this.name) return;
      if (this.root.childElementCount < 3) {
        this.fill(this.head(name), [el("p", { class: "quiet", text: "The aggregator does not answer; trying again with the next change." })]);
      }
    }
  }

  fill(head, content) {
    const inside = document.activeElement?.closest?.("#panel .close");
    this.root.replaceChildren(head, ...content);
    if (inside) this.root.querySelector(".close").focus();
  }

  head(name, detail) {
    const row = detail?.row;
    return el(
      "div", { class: "panel-head" },
      el("div", {},
        el("h2", {}, row ? mark(row.health) : null, el("span", { text: name })),
        row ? el("p", { class: "quiet", text: [row.pool, row.model !== row.pool ? row.model : "", detail.driver_version ? `driver ${detail.driver_version}` : ""].filter(Boolean).join(" · ") }) : null),
      el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.close() }),
    );
  }
}

function sections(detail, why) {
  return [
    facts(detail),
    ...whySections(detail.incident, why),
    section("Findings", detail.findings.length ? detail.findings.map(finding) : [quiet("None. Nothing is wrong that we can see.")]),
    waysSection(detail.incident, why),
    detail.gpus.length ? section("GPUs", [gpuTable(detail.gpus)]) : null,
    detail.npus.length ? section("NPUs", [gpuTable(detail.npus)]) : null,
    detail.rdma_ports.length ? section("RDMA ports", [portTable(detail.rdma_ports)]) : null,
    detail.sources.length ? section("Sources", [sourceList(detail.sources)]) : null,
    hostSection(detail.host),
    clusterSection(detail),
  ].filter(Boolean);
}

const section = (title, children) => el("section", {}, el("h3", { text: title }), ...children);
const quiet = (text) => el("p", { class: "quiet", text });

function facts({ row, score, utilization_history: history }) {
  const state = [row.health, row.standing, row.cordoned ? "cordoned" : "", row.connected ? "" : "disconnected"];
  return el(
    "dl", { class: "facts" },
    pair("State", el("span", { class: `tone ${row.health}`, text: state.filter(Boolean).join(", ") })),
    pair("Last report", row.received_seconds ? age(row.received_seconds, " ago") : "never"),
    pair("Score", score ? el("span", {}, el("b", { text: `${score.score} / 1000` }), ` ${score.reason}`) : "–"),
    pair("GPU use", el("span", { class: "with-spark" }, el("b", { text: percent(row.utilization_ratio) }), sparkline(history))),
  );
}

const pair = (label, value) => el("div", {}, el("dt", { text: label }), el("dd", {}, value));

function sparkline(history) {
  if (history.length < 2) return null;
  const ns = "http://www.w3.org/2000/svg";
  const [from, to] = [history[0][0], history.at(-1)[0]];
  const points = history.map(([time, ratio]) =>
    `${(((time - from) / (to - from || 1)) * 120).toFixed(1)},${(22 - ratio * 20).toFixed(1)}`);
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 120 24");
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `GPU use over the last ${duration(to - from)}`);
  const area = document.createElementNS(ns, "polygon");
  area.setAttribute("points", `0,24 ${points.join(" ")} 120,24`);
  const line = document.createElementNS(ns, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(area, line);
  return svg;
}

function finding(each) {
  return el(
    "article", { class: `finding ${each.severity}` },
    el("div", { class: "line" },
      mark(each.severity),
      el("strong", { text: each.code }),
      el("code", { text: each.subject }),
      age(each.since_seconds, " ago")),
    el("p", { text: each.evidence }),
    el("p", { class: "quiet", text: `${each.severity} · ${each.action === "none" ? "no action suggested" : `suggested: ${each.action}`}${each.count > 1 ? ` · seen ${each.count} times` : ""}${each.clears ? ` · ends with: ${each.clears}` : ""}` }),
  );
}

function table(heads, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows)));
}

function meter(ratio) {
  const bar = el("span", { class: "meter", "aria-hidden": "true" });
  bar.style.setProperty("--fill", String(ratio ?? 0));
  return el("td", {}, el("span", { class: "metered" }, el("span", { text: percent(ratio) }), bar));
}

const cell = (text) => el("td", { text });

function gpuTable(gpus) {
  return table(
    ["GPU", "Health", "Use", "Memory", "Temp.", "Power", "Procs"],
    gpus.map((gpu) => el("tr", { class: gpu.health },
      el("th", { scope: "row", title: gpu.uuid || "" }, String(gpu.index), el("small", { text: gpu.pci_bus_id || "" })),
      el("td", {}, el("span", { class: "line" }, mark(gpu.health), gpu.lost ? "lost" : gpu.health === "healthy" ? "ok" : gpu.health)),
      meter(gpu.utilization_ratio),
      meter(gpu.memory_total_bytes && gpu.memory_used_bytes !== undefined ? gpu.memory_used_bytes / gpu.memory_total_bytes : undefined),
      cell(number(gpu.temperature_celsius, "°C")),
      cell(number(gpu.power_watts, "W")),
      cell(gpu.process_count === undefined ? "–" : String(gpu.process_count)))),
  );
}

function portTable(ports) {
  return table(
    ["Port", "Health", "State", "Rate", "Link downs"],
    ports.map((port) => el("tr", { class: port.health },
      el("th", { scope: "row", text: port.name }),
      el("td", {}, el("span", { class: "line" }, mark(port.health), port.health === "healthy" ? "ok" : port.health)),
      cell([port.state, port.physical_state].filter(Boolean).join(", ") || "–"),
      cell(port.rate_bits_per_second === undefined ? "–" : `${(port.rate_bits_per_second / 1e9).toFixed(0)} Gb/s`),
      cell(port.link_downed_total === undefined ? "–" : String(port.link_downed_total)))),
  );
}

function sourceList(sources) {
  const health = { ok: "healthy", absent: "absent", failing: "degraded", stuck: "critical" };
  return el("ul", { class: "sources" }, ...sources.map((each) =>
    el("li", {},
      mark(health[each.state] || "unknown"),
      el("b", { text: each.name }),
      el("span", { text: each.state }),
      each.reason ? el("span", { class: "quiet", text: each.reason }) : null,
      each.since_seconds ? age(each.since_seconds) : null)));
}

function hostSection(host) {
  const disks = (host.disks || []).map((disk) =>
    [`Disk ${disk.mount_point}`, `${bytes(disk.available_bytes || 0)} free of ${bytes(disk.total_bytes)}`]);
  const pairs = [
    ["CPU", host.cpu_utilization_ratio === undefined ? null : `${percent(host.cpu_utilization_ratio)} of ${host.cpu_count || "?"} cores`],
    ["Load", host.load_average_1m === undefined ? null : number(host.load_average_1m, "", 1)],
    ["Memory", host.memory_total_bytes === undefined ? null : `${bytes(host.memory_available_bytes)} free of ${bytes(host.memory_total_bytes)}`],
    ["Up", host.uptime_seconds === undefined ? null : duration(host.uptime_seconds)],
    ...disks,
  ].filter(([, value]) => value !== null);
  if (!pairs.length) return null;
  return section("Host", [el("dl", { class: "facts" }, ...pairs.map(([label, value]) => pair(label, value)))]);
}

function clusterSection({ taint, conditions, agent_version: agent, boot_id: boot, reports_total: reports, first_seen_seconds: first }) {
  const pairs = [
    ["Taint", taint ? `fleetmedic.io/quarantine=${taint.code}:${taint.effect}` : "none of ours"],
    ...Object.entries(conditions).map(([type, each]) => [type, [each.status, each.reason, each.message].filter(Boolean).join(" · ")]),
    ["Agent", agent ? `${agent}, ${reports} reports since ${clockTime(first)}` : null],
    ["Boot", boot || null],
  ].filter(([, value]) => value !== null);
  return section("Cluster and agent", [el("dl", { class: "facts" }, ...pairs.map(([label, value]) => pair(label, value)))]);
}
