// Small helpers: elements without innerHTML, and numbers as people read them.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function mark(health) {
  return el("span", { class: `mark ${health}`, role: "img", "aria-label": health });
}

let clockOffsetSeconds = 0;

// Ages are measured on the aggregator's clock, so that a wrong clock here does not look like stale data.
export function setServerTime(seconds) {
  clockOffsetSeconds = seconds - Date.now() / 1000;
}

export const serverNow = () => Date.now() / 1000 + clockOffsetSeconds;

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) {
    const minutes = Math.floor((s % 3600) / 60);
    return minutes && s < 36000 ? `${Math.floor(s / 3600)} h ${minutes} min` : `${Math.floor(s / 3600)} h`;
  }
  return `${Math.floor(s / 86400)} d`;
}

export const ageText = (seconds) => duration(serverNow() - seconds);

// An age that keeps itself up to date.
export function age(seconds, suffix = "") {
  const moment = new Date(seconds * 1000);
  return el("time", {
    "data-since": seconds,
    "data-suffix": suffix,
    datetime: moment.toISOString(),
    title: moment.toLocaleString(),
    text: ageText(seconds) + suffix,
  });
}

// A moment still to come, which counts down by itself.
const untilText = (seconds) => {
  const left = seconds - serverNow();
  return left > 0 ? `at ${clockTime(seconds)}, in ${duration(left)}` : `since ${clockTime(seconds)}`;
};

export function until(seconds) {
  const moment = new Date(seconds * 1000);
  return el("time", {
    "data-until": seconds,
    datetime: moment.toISOString(),
    title: moment.toLocaleString(),
    text: untilText(seconds),
  });
}

export function refreshAges() {
  for (const each of document.querySelectorAll("time[data-until]")) {
    const text = untilText(Number(each.dataset.until));
    if (each.textContent !== text) each.textContent = text;
  }
  for (const each of document.querySelectorAll("time[data-since]")) {
    const text = ageText(Number(each.dataset.since)) + each.dataset.suffix;
    if (each.textContent !== text) each.textContent = text;
  }
}

export const clockTime = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

export const percent = (ratio) =>
  ratio === undefined || ratio === null ? "–" : `${Math.round(ratio * 100)} %`;

export function bytes(value) {
  if (value === undefined || value === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let size = Number(value);
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size >= 100 || unit === 0 ? size.toFixed(0) : size.toFixed(1)} ${units[unit]}`;
}

export const number = (value, unit = "", digits = 0) =>
  value === undefined || value === null ? "–" : `${value.toFixed(digits)}${unit ? ` ${unit}` : ""}`;

export const plural = (count, word, many = `${word}s`) => `${count} ${count === 1 ? word : many}`;
