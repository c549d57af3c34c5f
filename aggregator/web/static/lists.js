// Beside the grid: incidents, open first, and the stream of decisions, newest first.

import { age, byId, clockTime, el, mark, plural } from "./dom.js";

const MAX_CLOSED = 50;
const RANK = { fatal: 4, critical: 3, degraded: 2, info: 1 };

export class Incidents {
  constructor(store, open) {
    this.store = store;
    this.open = open;
    this.expanded = new Set();
    this.list = byId("incident-list");
  }

  render() {
    const focused = document.activeElement?.closest?.("[data-incident]")?.dataset.incident;
    const all = [...this.store.incidents.values()];
    const opened = all.filter((each) => each.open).sort(byUrgency);
    const closed = all.filter((each) => !each.open).sort((a, b) => b.closed_seconds - a.closed_seconds);
    byId("incidents-count").textContent = [
      `${opened.length} open`, closed.length ? `${closed.length} closed` : "",
    ].filter(Boolean).join(" · ");
    const items = [...opened, ...closed.slice(0, MAX_CLOSED)].map((each) => this.item(each));
    this.list.replaceChildren(...(items.length ? items : [el("li", { class: "quiet none", text: "No incidents. Nothing needs you." })]));
    if (focused) this.list.querySelector(`[data-incident="${CSS.escape(focused)}"] button`)?.focus({ preventScroll: true });
  }

  item(incident) {
    const shown = this.expanded.has(incident.name);
    const story = timeline(incident, this.open);
    story.hidden = !shown;
    const head = el(
      "button",
      { type: "button", class: "incident-head", "aria-expanded": String(shown) },
      el("span", { class: "line" },
        mark(incident.open ? incident.severity || "unknown" : "closed"),
        el("span", { class: "on", text: incident.node, title: incident.node }),
        el("span", { class: "code", text: incident.code || "all clear", title: incident.code }),
        age(incident.open ? incident.opened_seconds : incident.closed_seconds || incident.opened_seconds)),
      incident.open && incident.evidence ? el("span", { class: "evidence", text: incident.evidence }) : null,
      el("span", { class: "line" },
        el("span", { class: `phase ${incident.phase}`, text: incident.phase.replace("-", " ") }),
        incident.hold ? el("span", { class: "phase hold", text: "on hold" }) : null,
        incident.open && (incident.needs || incident.next_step) ? el("span", { class: "next", text: incident.needs || incident.next_step }) : null),
    );
    head.addEventListener("click", () => this.toggle(incident.name, head, story));
    return el("li", { class: `incident ${incident.open ? incident.severity || "unknown" : "closed"}`, "data-incident": incident.name }, head, story);
  }

  toggle(name, head, story) {
    story.hidden = !story.hidden;
    head.setAttribute("aria-expanded", String(!story.hidden));
    if (story.hidden) this.expanded.delete(name);
    else this.expanded.add(name);
  }
}

function byUrgency(a, b) {
  const needs = (b.phase === "needs-human") - (a.phase === "needs-human");
  return needs || (RANK[b.severity] || 0) - (RANK[a.severity] || 0) || b.opened_seconds - a.opened_seconds;
}

export function timeline(incident, open) {
  const steps = incident.timeline.map((step) =>
    el("li", {},
      el("time", { text: clockTime(step.time_seconds), title: new Date(step.time_seconds * 1000).toLocaleString() }),
      el("span", { class: `phase ${step.phase}`, text: step.phase.replace("-", " ") }),
      el("span", { text: step.text })));
  return el(
    "div", { class: "story" },
    steps.length ? el("ol", { class: "timeline" }, ...steps) : el("p", { class: "quiet", text: "No steps yet." }),
    open ? el("button", { type: "button", class: "link", text: `Show ${incident.node}`, onclick: () => open(incident.node) }) : null,
  );
}

export class Decisions {
  constructor(store, open) {
    this.store = store;
    this.list = byId("decision-list");
    this.list.addEventListener("click", (event) => {
      const node = event.target.closest("[data-open]")?.dataset.open;
      if (node) open(node);
    });
  }

  // Only what is new is added on top; `fresh` is undefined after a resync.
  render(fresh) {
    const all = this.store.decisions;
    byId("decisions-count").textContent = all.length ? `last ${all.length}, newest first` : "";
    if (!all.length) {
      this.list.replaceChildren(el("li", { class: "quiet none", text: "Nothing decided yet." }));
    } else if (fresh === undefined || this.list.querySelector(".none")) {
      this.list.replaceChildren(...all.map((each) => decision(each, false)));
    } else {
      this.list.prepend(...all.slice(0, fresh).map((each) => decision(each, true)));
      while (this.list.children.length > all.length) this.list.lastElementChild.remove();
    }
  }
}

function decision(each, fresh) {
  return el(
    "li",
    { class: `decision ${each.taken ? "taken" : "declined"}${fresh ? " fresh" : ""}` },
    el("span", { class: "line" },
      el("time", { text: clockTime(each.time_seconds), title: new Date(each.time_seconds * 1000).toLocaleString() }),
      el("span", { class: "kind", text: each.kind }),
      each.taken || each.kind === "declined" ? null : el("span", { class: "not-taken", text: "not taken" }),
      each.node ? el("button", { type: "button", class: "link", "data-open": each.node, text: each.node }) : null),
    el("span", { class: "why", text: each.text }),
  );
}

export const announcement = (incidents) => {
  const opened = incidents.filter((each) => each.open);
  if (!opened.length) return "";
  const [first] = opened;
  const rest = opened.length > 1 ? ` and ${plural(opened.length - 1, "more incident")}` : "";
  return `${first.code} on ${first.node}, ${first.phase}${rest}`;
};
