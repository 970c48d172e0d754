// Search runs in a worker, and a page that is opened as a file may not start one: there, a hidden frame takes its place.
(() => {
  if (location.protocol !== "file:") return;

  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = this.onerror = this.onmessageerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      this.inside = this.frame.contentWindow;
      const page = this.frame.contentDocument;
      page.open();
      page.write("<!doctype html><body></body>");
      page.close();
      this.inside.postMessage = (data) => this.tell("message", new MessageEvent("message", { data }));
      this.ready = new Promise((loaded) => {
        const script = page.createElement("script");
        script.src = new URL(address, document.baseURI).href;
        script.onload = loaded;
        script.onerror = () => this.tell("error", new ErrorEvent("error", { message: "the script cannot be read" }));
        page.body.append(script);
      });
    }

    tell(kind, event) {
      setTimeout(() => {
        this.dispatchEvent(event);
        this[`on${kind}`]?.(event);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  }

  window.Worker = FrameWorker;
})();
