// The fleet page: one stream in, everything on the page follows from it.

import { byId, refreshAges } from "./dom.js";
import { Grid } from "./grid.js";
import { renderConnection, renderHeader } from "./header.js";
import { announcement, Decisions, Incidents } from "./lists.js";
import { Panel } from "./panel.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import { Tip } from "./tip.js";

const HASH = "#node/";

const store = new Store();
const grid = new Grid(store, openNode);
const incidents = new Incidents(store, openNode);
const decisions = new Decisions(store, openNode);
const panel = new Panel(closeNode);
new Tip(store);

// The open node stands in the address, so that it can be sent to a colleague.
function openNode(name) {
  if (panel.name === name) return panel.close();
  history.replaceState(null, "", HASH + encodeURIComponent(name));
  grid.select(name);
  return panel.open(name);
}

function closeNode(name) {
  history.replaceState(null, "", location.pathname + location.search);
  grid.select(null);
  grid.focus(name);
}

function openFromAddress() {
  if (!location.hash.startsWith(HASH)) return;
  const name = decodeURIComponent(location.hash.slice(HASH.length));
  if (name && name !== panel.name) openNode(name);
}

// Changes are gathered and drawn once per frame.
const due = { names: new Set(), summary: false, incidents: false, decisions: null, drawing: false };

store.onChange((change) => {
  const { kind } = change;
  if (kind === "hello") {
    Object.assign(due, { summary: true, incidents: true, decisions: { fresh: undefined } });
  } else if (kind === "summary") {
    due.summary = true;
  } else if (kind === "incident") {
    due.incidents = true;
    byId("announce").textContent = announcement(change.incidents);
  } else if (kind === "decision") {
    const before = due.decisions;
    due.decisions = { fresh: before ? before.fresh === undefined ? undefined : before.fresh + change.fresh : change.fresh };
  }
  for (const name of change.names || []) due.names.add(name);
  if (!due.drawing) {
    due.drawing = true;
    requestAnimationFrame(draw);
  }
});

function draw() {
  due.drawing = false;
  if (due.summary) renderHeader(store.summary);
  if (due.incidents) incidents.render();
  if (due.decisions) decisions.render(due.decisions.fresh);
  if (due.names.size) {
    const names = [...due.names];
    due.names.clear();
    grid.update(names);
    if (panel.name) grid.select(panel.name);
    panel.changed(names);
  }
  Object.assign(due, { summary: false, incidents: false, decisions: null });
}

byId("filter").addEventListener("input", (event) => {
  grid.filterText = event.target.value;
  grid.filter();
});

byId("trouble").addEventListener("click", (event) => {
  grid.troubleOnly = !grid.troubleOnly;
  event.currentTarget.setAttribute("aria-pressed", String(grid.troubleOnly));
  grid.filter();
});

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input")) return;
  event.preventDefault();
  byId("filter").focus();
});

addEventListener("hashchange", openFromAddress);
setInterval(refreshAges, 1000);

let started = false;
new Stream(
  "/api/v1/events",
  (kind, data) => store.apply(kind, data),
  (state) => {
    renderConnection(state, store.summary);
    if (state === "live" && !started) {
      started = true;
      openFromAddress();
    }
  },
).open();
