// Keeps an open page current: the server sends what changed, this puts it in place, without moving focus, selection or what is folded out.
"use strict";
(() => {
  const body = document.body;
  const connection = document.getElementById("connection");
  let token = body.dataset.token;
  const waiting = new Map();

  const units = [[86400, "day", "days"], [3600, "h", "h"], [60, "min", "min"]];
  function length(seconds) {
    for (const [size, one, many] of units) {
      const count = Math.floor(seconds / size);
      if (count >= 1) return `${count} ${count === 1 ? one : many}`;
    }
    return `${Math.floor(seconds)} s`;
  }
  function distances() {
    const now = Date.now() / 1000;
    for (const each of document.querySelectorAll("[data-at]")) {
      const away = Number(each.dataset.at) - now;
      const text = away >= 1 ? `in ${length(away)}` : away > -1 ? (away > 0 ? "now" : "just now") : `${length(-away)} ago`;
      if (each.textContent !== text) each.textContent = text;
    }
  }

  function isSelected(element) {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && selection.containsNode(element, true);
  }
  function change(kind, id, html) {
    const element = document.getElementById(id);
    if (!element) {  // the page has other sections by now, as when the journal can be read again
      if (kind === "set" && performance.now() > 5000) location.reload();
      return;
    }
    if (isSelected(element)) { waiting.set(`${kind} ${id}`, [kind, id, html]); return; }
    waiting.delete(`${kind} ${id}`);
    const active = document.activeElement;
    const focused = active && element.contains(active) && active !== element ? active : null;
    const open = [...element.querySelectorAll("details[open][id]")].map((each) => each.id);
    if (kind === "set") element.innerHTML = html;
    else if (kind === "row") element.outerHTML = html;
    else element.insertAdjacentHTML("beforeend", html);
    for (const name of open) document.getElementById(name)?.setAttribute("open", "");
    if (focused && !focused.isConnected) again(focused)?.focus({ preventScroll: true });
  }
  function again(former) {
    if (former.id) return document.getElementById(former.id);
    const address = former.getAttribute("href");
    return address && [...document.querySelectorAll("a[href]")].find((each) => each.getAttribute("href") === address);
  }
  document.addEventListener("selectionchange", () => {
    for (const each of [...waiting.values()]) change(...each);
  });

  function connect() {
    const source = new EventSource(`${body.dataset.live}?token=${token}`);
    source.onopen = () => { connection.textContent = "This page is live."; };
    source.onmessage = (event) => {
      token = event.lastEventId;
      for (const each of JSON.parse(event.data)) change(...each);
      distances();
    };
    source.onerror = () => {
      connection.textContent = "Not live: connecting again.";
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 10000);
    };
    addEventListener("pagehide", () => source.close(), { once: true });
  }
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  if (body.dataset.live) connect();
  distances();
  setInterval(distances, 10000);
})();
