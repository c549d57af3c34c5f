// The header line: what matters first, in figures.

import { byId, clockTime, duration, el, percent, plural, setServerTime } from "./dom.js";

const MODES = {
  observe: ["Observe mode", "Observe mode: nothing is written. Decisions are what would be done."],
  "dry-run": ["Dry run", "Dry run: nothing is written. Decisions are what would be done."],
};

export function renderHeader(summary) {
  setServerTime(summary.time_seconds);
  byId("figures").replaceChildren(...figures(summary).map(figure));
  renderMode(summary);
  const count = summary.incidents_open;
  document.title = count ? `(${count}) Fleetmedic` : "Fleetmedic";
}

function figure([label, value, note, tone]) {
  return el(
    "div",
    { class: tone || "" },
    el("dt", { text: label }),
    el("dd", { class: "value", text: value }),
    el("dd", { class: "note", text: note }),
  );
}

function figures(s) {
  const healthy = s.nodes_by_health.healthy || 0;
  const silent = s.nodes - s.reporting;
  return [
    ["Nodes", String(s.nodes), `${healthy} healthy`],
    ["GPUs", String(s.gpus), s.gpus_faulty ? `${s.gpus_faulty} faulty` : "none faulty", s.gpus_faulty ? "note-warn" : ""],
    ["GPU use", percent(s.gpu_utilization_ratio), s.gpus_held_idle ? `${s.gpus_held_idle} held idle` : "none held idle"],
    ["Quarantined", String(s.quarantined), `of ${plural(s.nodes, "node")}`, s.quarantined ? "warn" : ""],
    [
      "Open incidents",
      String(s.incidents_open),
      s.incidents_need_human ? `${s.incidents_need_human} need${s.incidents_need_human === 1 ? "s" : ""} a person` : "no one is needed",
      s.incidents_need_human ? "bad" : s.incidents_open ? "warn" : "",
    ],
    ["Reporting", `${s.reporting}/${s.nodes}`, freshness(s, silent), silent ? "note-warn" : ""],
  ];
}

function freshness(s, silent) {
  if (s.newest_report_age_seconds === null) return "no report yet";
  if (silent) return `oldest ${duration(s.oldest_report_age_seconds)} ago`;
  return `all within ${duration(s.oldest_report_age_seconds)}`;
}

function renderMode(s) {
  const mode = byId("mode");
  const notice = byId("notice");
  const [word, sentence] = wording(s);
  mode.hidden = false;
  mode.textContent = word;
  mode.className = `badge ${sentence ? "caution" : "calm"}`;
  notice.hidden = !sentence;
  notice.textContent = sentence;
}

function wording(s) {
  if (!s.writes) return MODES[s.mode] || [s.mode, `Mode ${s.mode}: nothing is written.`];
  if (!s.synced) return ["starting", "The cluster is not read yet: nothing is decided."];
  if (!s.leading) return ["standby", "Standby: another replica leads and acts. This page may lag behind it."];
  return ["acting", ""];
}

// `summary` is the newest one heard: what the page shows while the line is down is that old.
export function renderConnection(state, summary) {
  const badge = byId("connection");
  const held = state !== "live" && summary ? ` · as of ${clockTime(summary.time_seconds)}` : "";
  badge.textContent = state + held;
  badge.className = `badge ${state}`;
  document.body.classList.toggle("offline", state !== "live");
}
