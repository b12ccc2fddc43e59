// A browser starts no worker from a file on a disk. There a hidden frame runs the same script, so that search works.
"use strict";

if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      const run = (url) =>
        new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          script.src = url;
          script.onload = done;
          script.onerror = () => failed(new Error(`${url} cannot be loaded`));
          inside.document.body.append(script);
        });
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => run(url)), Promise.resolve());
      this.ready = run(address);
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
