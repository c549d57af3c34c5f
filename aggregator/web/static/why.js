// In the side panel: why the node stands as it does, what was tried, what comes next, and how to stop it.

import { clockTime, duration, el, until } from "./dom.js";

const STEPS = ["suspect", "quarantined", "draining", "repairing", "verifying", "closed"];
const OUTCOMES = { started: "under way", done: "done", failed: "failed", refused: "refused", unknown: "outcome unknown", cancelled: "stopped by a person" };

const section = (title, ...children) => el("section", {}, el("h3", { text: title }), ...children);

// `why` is what /explain answers; null where it did not.
export function whySections(incident, why) {
  return [
    why ? section("Why", el("p", { class: "summary", text: why.summary }), sentences(why.state)) : null,
    incident ? incidentSection(incident, why) : null,
  ].filter(Boolean);
}

function sentences(lines) {
  return el("ul", { class: "sentences" }, ...lines.map((line) =>
    el("li", { class: /^(Everything is stopped|On hold|A person)/.test(line.text) ? "person" : "" }, line.text)));
}

function incidentSection(incident, why) {
  const reached = STEPS.indexOf(incident.phase);
  const stepper = el("ol", { class: "stepper", "aria-label": "Phase" },
    ...STEPS.map((step, index) =>
      el("li", { class: index < reached ? "done" : index === reached ? "now" : "", "aria-current": index === reached ? "step" : false, text: step })));
  const human = incident.phase === "needs-human"
    ? el("p", { class: "tone fatal needs" }, el("b", { text: "Needs a person: " }), incident.needs || "see what comes next.") : null;
  const coming = why ? why.next : incident.next_step ? [{ text: incident.next_step, time_seconds: incident.next_step_seconds }] : [];
  const rest = human ? coming.filter((line) => !incident.needs || !line.text.endsWith(incident.needs)) : coming;
  return section("Incident",
    human || stepper,
    rest.length ? el("div", { class: "coming" }, el("b", { text: "Next" }),
      el("ul", { class: "sentences" }, ...rest.map((line) =>
        el("li", {}, line.text, line.time_seconds ? " " : null, line.time_seconds ? until(line.time_seconds) : null)))) : null,
    incident.drain ? drainBar(incident.drain) : null,
    story(incident));
}

function drainBar({ state, pods_gone: gone, pods_total: total, text }) {
  const words = { running: "Drain", done: "Drain done", stuck: "Drain stuck, nothing was forced" };
  const bar = el("progress", { max: Math.max(total, 1), value: gone, "aria-label": "Pods gone" });
  return el("div", { class: `drain ${state}` },
    el("div", { class: "line" }, el("b", { text: words[state] || state }), el("span", { text: `${gone} of ${total} pods gone` })),
    bar,
    text ? el("p", { class: "quiet", text }) : null);
}

// Phases and attempts, in the order in which they happened.
function story({ timeline, attempts }) {
  const steps = [
    ...timeline.map((step) => ({ at: step.time_seconds, badge: step.phase.replace("-", " "), kind: step.phase, text: step.text })),
    ...attempts.map((each) => ({
      at: each.started_seconds,
      badge: each.rung,
      kind: `attempt ${each.outcome}`,
      text: [
        each.subject,
        (OUTCOMES[each.outcome] || each.outcome) + (each.finished_seconds ? ` after ${duration(each.finished_seconds - each.started_seconds)}` : ""),
        each.text,
      ].filter(Boolean).join(": "),
    })),
  ].sort((a, b) => a.at - b.at);
  if (!steps.length) return el("p", { class: "quiet", text: "No steps yet." });
  return el("div", { class: "story" }, el("ol", { class: "timeline" }, ...steps.map((step) =>
    el("li", {},
      el("time", { text: clockTime(step.at), title: new Date(step.at * 1000).toLocaleString() }),
      el("span", { class: `phase ${step.kind}`, text: step.badge }),
      el("span", { text: step.text })))));
}

// This page has no login, so it takes no orders: it gives the command, and the person's own rights decide.
export function waysSection(incident, why) {
  if (!why || !(incident || why.go_on.length)) return null;
  const list = (entries) => el("dl", { class: "ways" }, ...entries.flatMap((way) => [
    el("dt", { text: way.what }),
    way.command ? el("dd", {}, el("code", { text: way.command }), copier(way.command)) : null,
  ]).filter(Boolean));
  return section("How to stop it",
    list(why.stop),
    why.go_on.length ? el("h3", { class: "second", text: "How to let it go on" }) : null,
    why.go_on.length ? list(why.go_on) : null);
}

// Where the browser has no clipboard for us (plain http), the command can be marked with one click.
function copier(command) {
  if (!navigator.clipboard) return null;
  const button = el("button", { type: "button", class: "link", "aria-label": `Copy ${command}`, text: "copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "copied";
    } catch {
      button.textContent = "mark it by hand";
    }
  });
  return button;
}
