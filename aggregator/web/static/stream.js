// The event stream: live, or trying again. Every new connection begins with the whole picture.

const KINDS = ["hello", "node", "synced", "summary", "incident", "decision"];
const SILENCE_MILLISECONDS = 60_000;
const MAX_WAIT_MILLISECONDS = 15_000;

export class Stream {
  constructor(url, apply, onState) {
    this.url = url;
    this.apply = apply;
    this.onState = onState;
    this.wait = 1000;
    this.source = null;
    this.heard = Date.now();
    // A connection that died without a word is found by its silence.
    setInterval(() => {
      if (Date.now() - this.heard > SILENCE_MILLISECONDS) this.open();
    }, 5000);
    addEventListener("pagehide", () => this.source?.close());
    addEventListener("pageshow", (event) => event.persisted && this.open());
  }

  open() {
    this.source?.close();
    clearTimeout(this.timer);
    this.heard = Date.now();
    const source = new EventSource(this.url);
    this.source = source;
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.heard = Date.now();
        this.apply(kind, JSON.parse(event.data));
        if (kind === "synced") {
          this.wait = 1000;
          this.onState("live");
        }
      });
    }
    source.onerror = () => {
      this.onState("reconnecting");
      if (source.readyState === EventSource.CLOSED && source === this.source) this.later();
    };
  }

  // The browser tries again by itself after a broken line, but not after an error status from a proxy.
  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(this.wait * 2, MAX_WAIT_MILLISECONDS);
  }
}
