// The picture this page has of the fleet. Events carry whole objects, so applying one twice does no harm.

const MAX_DECISIONS = 200;

export class Store {
  constructor() {
    this.summary = null;
    this.nodes = new Map();
    this.incidents = new Map();
    this.decisions = []; // newest first
    this.resync = null; // names seen since `hello`; null when in step
    this.listeners = [];
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  tell(change) {
    for (const listener of this.listeners) listener(change);
  }

  apply(kind, data) {
    const handler = this[`on_${kind}`];
    if (handler) this.tell({ kind, ...handler.call(this, data) });
  }

  on_hello(data) {
    this.resync = new Set();
    this.summary = data.summary;
    this.incidents = new Map(data.incidents.map((each) => [each.name, each]));
    this.decisions = data.decisions;
    return {};
  }

  on_summary(data) {
    this.summary = data;
    return {};
  }

  on_node(data) {
    for (const node of data.nodes) {
      this.nodes.set(node.name, node);
      this.resync?.add(node.name);
    }
    for (const name of data.gone) this.nodes.delete(name);
    return { names: [...data.nodes.map((node) => node.name), ...data.gone] };
  }

  on_synced() {
    const gone = [...this.nodes.keys()].filter((name) => this.resync && !this.resync.has(name));
    for (const name of gone) this.nodes.delete(name);
    this.resync = null;
    return { names: gone };
  }

  on_incident(data) {
    for (const each of data.incidents) this.incidents.set(each.name, each);
    for (const name of data.gone) this.incidents.delete(name);
    return { incidents: data.incidents };
  }

  on_decision(data) {
    this.decisions = [...data.decisions, ...this.decisions].slice(0, MAX_DECISIONS);
    return { fresh: data.decisions.length };
  }
}
