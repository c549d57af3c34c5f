// The tooltip: values under the pointer or the keyboard's focus.

import { ageText, byId, el, number, percent } from "./dom.js";

export class Tip {
  constructor(store) {
    this.store = store;
    this.box = byId("tip");
    const grid = byId("grid");
    grid.addEventListener("pointerover", (event) => event.pointerType !== "touch" && this.show(event.target));
    grid.addEventListener("pointerleave", () => this.hide());
    grid.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && this.show(event.target));
    grid.addEventListener("focusout", () => this.hide());
    addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
    addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
  }

  hide() {
    this.box.hidden = true;
  }

  show(target) {
    const tile = target.closest(".tile");
    const node = tile && this.store.nodes.get(tile.dataset.node);
    if (!node) return this.hide();
    const part = target.closest("[data-gpu],[data-port]");
    const rows = [...partRows(node, part), ...nodeRows(node)];
    this.box.replaceChildren(
      el("strong", { text: node.name }),
      ...rows.map(([label, value, tone]) =>
        el("div", { class: tone || "" }, el("span", { text: label }), el("span", { text: value }))),
    );
    this.box.hidden = false;
    this.place((part || tile).getBoundingClientRect());
  }

  place(anchor) {
    const { width, height } = this.box.getBoundingClientRect();
    const left = Math.max(6, Math.min(anchor.left + anchor.width / 2 - width / 2, innerWidth - width - 6));
    const below = anchor.bottom + 8;
    const top = below + height > innerHeight ? anchor.top - height - 8 : below;
    this.box.style.left = `${left}px`;
    this.box.style.top = `${Math.max(6, top)}px`;
  }
}

function partRows(node, part) {
  if (part?.dataset.gpu !== undefined) return gpuRows(node.gpus[Number(part.dataset.gpu)]);
  if (part?.dataset.port !== undefined) return portRows(node.ports[Number(part.dataset.port)]);
  return [];
}

function gpuRows(gpu) {
  if (!gpu) return [];
  const health = gpu.health || "healthy";
  return [
    [`GPU ${gpu.index}`, gpu.code || health, health],
    ["use", gpu.held_idle ? `${percent(gpu.utilization_ratio)}, held idle` : percent(gpu.utilization_ratio)],
    ["memory", percent(gpu.memory_used_ratio)],
    ["temperature", number(gpu.temperature_celsius, "°C")],
    ["power", number(gpu.power_watts, "W"), "last"],
  ];
}

function portRows(port) {
  if (!port) return [];
  const health = port.health || "healthy";
  return [[port.name, port.state || "state unknown", health], ["health", health, "last"]];
}

function nodeRows(node) {
  return [
    ["node", [node.health, node.standing, node.cordoned ? "cordoned" : ""].filter(Boolean).join(", "), node.health],
    ...(node.codes?.length ? [["findings", node.codes.slice(0, 3).join(", ")]] : []),
    ...(node.blind ? [["devices", node.blind]] : []),
    ["score", node.score === undefined ? "–" : `${node.score} / 1000`],
    ["last report", node.received_seconds ? `${ageText(node.received_seconds)} ago` : "never"],
  ];
}
