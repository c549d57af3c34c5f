// The grid: one tile per node, grouped by pool. Only tiles whose node changed are touched.

import { byId, el, percent, plural } from "./dom.js";

const WORDS = { stale: "no report", unknown: "no data" };

const order = new Intl.Collator(undefined, { numeric: true });

export class Grid {
  constructor(store, open) {
    this.store = store;
    this.tiles = new Map(); // node name -> Tile
    this.pools = new Map(); // pool name -> {section, list, note}
    this.root = byId("grid");
    this.filterText = "";
    this.troubleOnly = false;
    this.root.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) open(tile.dataset.node);
    });
    this.root.addEventListener("keydown", (event) => this.walk(event));
    this.root.addEventListener("focusin", (event) => this.rove(event.target.closest(".tile")));
  }

  update(names) {
    const touched = new Set();
    for (const name of names) {
      const node = this.store.nodes.get(name);
      const tile = this.tiles.get(name);
      if (tile && tile.pool !== node?.pool) {
        touched.add(tile.pool);
        tile.element.remove();
        this.tiles.delete(name);
      }
      if (!node) continue;
      touched.add(node.pool);
      if (this.tiles.has(name)) this.tiles.get(name).update(node);
      else this.tiles.set(name, new Tile(node));
    }
    for (const pool of touched) this.arrange(pool);
    this.settle();
  }

  // Put a pool's new tiles in their place, by name; drop a pool that is empty.
  arrange(name) {
    const members = [...this.tiles.values()].filter((tile) => tile.pool === name);
    if (!members.length) {
      this.pools.get(name)?.section.remove();
      this.pools.delete(name);
      return;
    }
    const pool = this.pools.get(name) || this.addPool(name);
    if (members.some((tile) => !tile.element.isConnected)) {
      members.sort((a, b) => order.compare(a.name, b.name));
      let next = null;
      for (const { element } of members.reverse()) {
        if (!element.isConnected) pool.list.insertBefore(element, next);
        next = element;
      }
    }
    pool.note.textContent = poolNote(members.map((tile) => tile.node));
  }

  addPool(name) {
    const note = el("span", { class: "quiet" });
    const list = el("div", { class: "tiles", role: "group", "aria-label": `Pool ${name}` });
    const section = el("section", { class: "pool" }, el("h3", {}, el("span", { text: name }), note), list);
    const pool = { section, list, note };
    this.pools.set(name, pool);
    const later = [...this.pools.keys()].filter((each) => each > name).sort()[0];
    this.root.insertBefore(section, later ? this.pools.get(later).section : null);
    return pool;
  }

  settle() {
    const count = Math.max(this.tiles.size, this.store.summary?.nodes || 0);
    this.root.className = count > 320 ? "tiny" : count > 72 ? "dense" : "roomy";
    this.filter();
    if (!this.root.querySelector('.tile[tabindex="0"]')) this.rove(this.root.querySelector(".tile"));
  }

  filter() {
    let shown = 0;
    const words = this.filterText.toLowerCase().split(/\s+/).filter(Boolean);
    for (const tile of this.tiles.values()) {
      const hidden = !tile.matches(words, this.troubleOnly);
      if (tile.element.hidden !== hidden) tile.element.hidden = hidden;
      if (!hidden) shown += 1;
    }
    for (const pool of this.pools.values()) {
      pool.section.hidden = !pool.list.querySelector(".tile:not([hidden])");
    }
    const empty = byId("empty");
    empty.hidden = shown > 0;
    empty.textContent = this.tiles.size
      ? "No node matches."
      : "No node has reported yet. An agent appears here with its first report.";
  }

  select(name) {
    this.root.querySelector(".tile.selected")?.classList.remove("selected");
    this.tiles.get(name)?.element.classList.add("selected");
  }

  focus(name) {
    this.tiles.get(name)?.element.focus();
  }

  // One tile is reached by Tab; the arrow keys walk from there.
  rove(tile) {
    if (!tile) return;
    for (const each of this.root.querySelectorAll('.tile[tabindex="0"]')) each.tabIndex = -1;
    tile.tabIndex = 0;
  }

  walk(event) {
    const tile = event.target.closest(".tile");
    if (!tile || !event.key.startsWith("Arrow")) return;
    const visible = [...this.root.querySelectorAll(".tile:not([hidden])")];
    const next = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
      ? visible[visible.indexOf(tile) + { ArrowLeft: -1, ArrowRight: 1 }[event.key]]
      : nearest(tile, visible, event.key === "ArrowDown" ? 1 : -1);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

function nearest(tile, others, direction) {
  const from = tile.getBoundingClientRect();
  let best = null;
  let bestDistance = Infinity;
  for (const other of others) {
    const to = other.getBoundingClientRect();
    const down = (to.top - from.top) * direction;
    if (down < from.height / 2) continue;
    const distance = down * 10 + Math.abs(to.left - from.left);
    if (distance < bestDistance) [best, bestDistance] = [other, distance];
  }
  return best;
}

function poolNote(nodes) {
  const gpus = nodes.reduce((sum, node) => sum + (node.gpus?.length || 0), 0);
  const used = nodes.map((node) => node.utilization_ratio).filter((ratio) => ratio !== undefined);
  const mean = used.reduce((sum, ratio) => sum + ratio, 0) / used.length;
  const trouble = nodes.filter(isTrouble).length;
  return [
    plural(nodes.length, "node"),
    plural(gpus, "GPU"),
    used.length ? `${percent(mean)} in use` : "",
    trouble ? `${trouble} in trouble` : "",
  ].filter(Boolean).join(" · ");
}

const isTrouble = (node) => node.health !== "healthy" || Boolean(node.standing) || Boolean(node.phase);

class Tile {
  constructor(node) {
    this.name = node.name;
    this.cells = el("span", { class: "cells" });
    this.ports = el("span", { class: "ports" });
    this.note = el("span", { class: "tile-note" });
    this.state = el("span", { class: "mark" });
    this.element = el(
      "button",
      { type: "button", tabindex: "-1", "data-node": node.name },
      el("span", { class: "tile-head" }, el("span", { class: "tile-name" }, el("bdi", { text: node.name })), this.state),
      this.cells,
      el("span", { class: "tile-foot" }, this.ports, this.note),
    );
    this.update(node);
  }

  update(node) {
    this.node = node;
    this.pool = node.pool;
    const selected = this.element.classList.contains("selected") ? " selected" : "";
    const classes = `tile ${node.health}${node.standing ? ` ${node.standing}` : ""}${selected}`;
    if (this.element.className !== classes) this.element.className = classes;
    setText(this.note, tileNote(node));
    this.state.className = `mark ${node.health}`;
    const label = describe(node);
    if (this.element.getAttribute("aria-label") !== label) this.element.setAttribute("aria-label", label);
    this.search = [node.name, node.pool, node.health, node.standing, node.phase, ...(node.codes || [])]
      .join(" ").toLowerCase();
    fit(this.cells, node.gpus || [], newCell, updateCell);
    fit(this.ports, node.ports || [], newDot, updateDot);
  }

  matches(words, troubleOnly) {
    return (!troubleOnly || isTrouble(this.node)) && words.every((word) => this.search.includes(word));
  }
}

// As many children as values; each touched only where its value changed.
function fit(parent, values, make, update) {
  while (parent.children.length > values.length) parent.lastElementChild.remove();
  values.forEach((value, index) => {
    const child = parent.children[index] || parent.appendChild(make(index));
    update(child, value);
  });
}

const newCell = (index) => el("span", { class: "cell", "data-gpu": index });
const newDot = (index) => el("span", { class: "dot", "data-port": index });

function updateCell(cell, gpu) {
  const health = gpu.health || "healthy";
  const measured = gpu.utilization_ratio !== undefined;
  const classes = `cell ${health}${gpu.held_idle ? " idle" : ""}${measured ? "" : " blank"}`;
  if (cell.className !== classes) cell.className = classes;
  const fill = String(gpu.utilization_ratio || 0);
  if (cell.style.getPropertyValue("--fill") !== fill) cell.style.setProperty("--fill", fill);
}

function updateDot(dot, port) {
  const down = port.state && port.state !== "ACTIVE" ? " down" : "";
  const classes = `dot ${port.health || "healthy"}${down}`;
  if (dot.className !== classes) dot.className = classes;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tileNote(node) {
  if (node.standing === "quarantined") return node.codes?.[0] || "quarantined";
  if (node.blind) return node.blind;
  if (node.health === "stale" || node.health === "unknown") return WORDS[node.health];
  if (node.health !== "healthy") return node.codes?.[0] || node.health;
  if (node.cordoned) return "cordoned";
  if (node.gpus?.length && node.gpus.every((gpu) => gpu.held_idle)) return "held, idle";
  return percent(node.utilization_ratio);
}

function describe(node) {
  return [
    node.name,
    WORDS[node.health] || node.health,
    node.standing,
    node.blind,
    node.cordoned ? "cordoned" : "",
    ...(node.codes || []),
    plural(node.gpus?.length || 0, "GPU"),
    node.utilization_ratio === undefined ? "" : `${percent(node.utilization_ratio)} in use`,
  ].filter(Boolean).join(", ");
}
