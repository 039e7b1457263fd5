// Live updates that can be paused, copying of ids, and keys. The pages are complete without it.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  let source = null;
  let paused = false;

  const bar = () => document.getElementById("live-bar");
  const region = () => document.querySelector("#live[data-live]");

  function say(text, state) {
    if (!bar()) return;
    document.getElementById("live-text").textContent = text;
    document.getElementById("live-button").textContent = paused ? "Resume" : "Pause";
    bar().classList.toggle("paused", state === "paused");
    bar().classList.toggle("lost", state === "lost");
  }

  function trouble(text) {
    const box = document.getElementById("trouble");
    box.hidden = !text;
    if (text && box.textContent !== text) box.textContent = text;
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  function open() {
    close();
    if (!region() || paused || document.hidden) return;
    const stream = source = new EventSource(location.pathname + location.search);
    stream.addEventListener("page", (event) => {
      trouble("");
      show(JSON.parse(event.data));
      say("Live, updated " + new Date().toISOString().slice(11, 19) + "Z");
    });
    stream.addEventListener("trouble", (event) => {
      trouble(JSON.parse(event.data));
      say("Waiting for the ledger", "lost");
    });
    stream.addEventListener("ended", () => { close(); say("Signed out", "lost"); });
    stream.onerror = () => {
      if (source !== stream) return;
      say("Connection lost, trying again", "lost");
      if (stream.readyState === EventSource.CLOSED) {
        close();
        setTimeout(() => { if (!source) open(); }, 10000);
      }
    };
  }

  // The new content, unless somebody is selecting text in the old one; the focus stays where it was.
  function show(html) {
    const live = region();
    const selection = getSelection();
    if (!live || (!selection.isCollapsed && live.contains(selection.anchorNode))) return;
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    const mark = focused && (focused.dataset.copy ? `[data-copy="${CSS.escape(focused.dataset.copy)}"]`
      : focused.getAttribute("href") && `[href="${CSS.escape(focused.getAttribute("href"))}"]`);
    live.innerHTML = html;
    if (mark) live.querySelector(mark)?.focus({ preventScroll: true });
    const state = live.querySelector("[data-state]")?.dataset.state;
    if (state) {
      document.querySelectorAll("[data-while]").forEach((one) => { one.hidden = one.dataset.while !== state; });
      if (state !== "working") { close(); say("Ended"); }
    }
  }

  function pause() {
    if (!bar()) return;
    paused = !paused;
    if (paused) { close(); say("Paused", "paused"); } else { say("Live"); open(); }
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      button.classList.add("copied");
      setTimeout(() => { button.textContent = "Copy"; button.classList.remove("copied"); }, 1500);
    } catch {
      // Without HTTPS there is no clipboard: the id is selected instead.
      const code = button.parentElement.querySelector("code");
      if (code) getSelection().selectAllChildren(code);
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.id === "live-button") pause();
    else if (button?.dataset.copy) copy(button);
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches(".filters select")) event.target.form.requestSubmit();
  });

  // "/" searches, "p" pauses, "g" and a letter opens a page.
  const pages = { n: 0, a: 1, j: 2, d: 3, b: 4, u: 5, o: 6, s: 7, l: 8 };
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const link = going && document.querySelectorAll(".top nav a")[pages[event.key]];
    going = event.key === "g";
    if (link) link.click();
    else if (event.key === "/" && document.getElementById("q")) {
      event.preventDefault();
      document.getElementById("q").focus();
    } else if (event.key === "p") pause();
  });

  document.addEventListener("submit", (event) => {
    // Empty filters stay out of the address; a form is sent once.
    if (event.target.method === "get") {
      for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
    } else if (event.target.method === "post") {
      const button = event.target.querySelector("button[type=submit]");
      setTimeout(() => { if (button) button.disabled = true; });
    }
  }, true);

  document.addEventListener("visibilitychange", open);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  document.addEventListener("htmx:beforeSwap", close);
  document.addEventListener("htmx:afterSettle", start);

  function start() {
    paused = false;
    say("Live");
    open();
  }
  start();
})();
