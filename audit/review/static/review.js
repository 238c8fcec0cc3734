"use strict";
// Keys and actions without reloads. Text from the data is only ever set as text, never as markup.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const status = one("[data-status]");
  const single = one("[data-single]");
  const cards = all("[data-grid] > .card");
  const memory = "roclip-review:" + document.body.dataset.run;
  let timer = 0;

  function say(text) {
    status.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => { status.textContent = ""; }, 4000);
  }

  // Where the reviewer was: kept per browser, found again when the page is opened without a list.
  function remember(url) {
    try { localStorage.setItem(memory, url); } catch { /* private windows keep nothing */ }
  }
  function remembered() {
    try { return localStorage.getItem(memory); } catch { return null; }
  }
  if (location.pathname === "/" && !location.search && !location.hash) {
    const before = remembered();
    if (before && before.startsWith("/") && !before.startsWith("//") && before !== "/") { location.replace(before); return; }
  }
  if (one(".error") === null) remember(location.pathname + location.search + location.hash);

  async function post(path, body) {
    let answer;
    try {
      const sent = { method: "POST", headers: { "content-type": "application/json", accept: "application/json" }, body: JSON.stringify(body) };
      const response = await fetch(path, sent);
      const text = await response.text();
      answer = response.headers.get("content-type")?.startsWith("application/json") ? JSON.parse(text) : { error: text };
    } catch { answer = { error: "The server does not answer; nothing was decided." }; }
    if (answer.error) { say(answer.error); return null; }
    for (const [name, value] of Object.entries(answer.progress)) {
      for (const node of all(`[data-progress=${name}]`)) node.textContent = value.toLocaleString("en");
    }
    one("#progress").value = answer.progress.flagged_decided;
    return answer;
  }

  function show(card, verdict, by) {
    card.dataset.verdict = verdict === "clear" ? "" : verdict;
    for (const button of all("[data-decide] [aria-pressed]", card)) button.setAttribute("aria-pressed", String(button.value === verdict));
    const node = one("[data-by]", card);
    if (node) node.textContent = verdict === "clear" ? "" : by;
    const waiting = one(`[data-all] input[value="${CSS.escape(card.dataset.uid)}"]`);
    if (waiting) waiting.disabled = verdict !== "clear";
  }

  async function decide(chosen, verdict, note) {
    if (!chosen.length) { say("Nothing to decide here."); return false; }
    const answer = await post("/decide", { uids: chosen.map((card) => card.dataset.uid), verdict, note: note || "" });
    if (!answer) return false;
    for (const card of chosen) show(card, verdict, answer.reviewer);
    const done = { keep: "kept", drop: "dropped", clear: "cleared" }[verdict];
    say(`${answer.n.toLocaleString("en")} ${done}. u takes it back.`);
    return true;
  }

  async function undo() {
    const answer = await post("/undo", {});
    if (!answer) return;
    if (!answer.n && !answer.left) { say("Nothing of yours to undo."); return; }
    try { sessionStorage.setItem("said", `Undone for ${answer.n}` + (answer.left ? `; ${answer.left} decided by others since.` : ".")); } catch { /* then silently */ }
    location.reload();
  }
  try { const said = sessionStorage.getItem("said"); if (said) { say(said); sessionStorage.removeItem("said"); } } catch { /* none */ }

  const current = () => document.activeElement?.closest?.("[data-grid] > .card") ?? null;
  function focus(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    history.replaceState(null, "", location.pathname + location.search + "#" + card.id);
    remember(location.pathname + location.search + "#" + card.id);
  }
  function step(by) {
    const at = cards.indexOf(current());
    if (at < 0) { focus(cards[0]); return; }
    const next = at + by;
    if (next >= cards.length) { const link = one("[rel=next]"); if (link && by === 1) link.click(); else focus(cards.at(-1)); return; }
    focus(cards[Math.max(next, 0)]);
  }
  const perRow = () => cards.filter((card) => card.offsetTop === cards[0].offsetTop).length || 1;
  const go = (url) => { if (url) location.assign(url); };
  const follow = (selector) => { one(selector)?.click(); };

  const inGrid = {
    j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
    ArrowDown: () => step(perRow()), ArrowUp: () => step(-perRow()),
    o: () => go(current()?.dataset.open),
    m: () => { const card = current(); if (card) go(`/?like=${card.dataset.uid}&kind=image`); },
    M: () => { const card = current(); if (card) go(`/?like=${card.dataset.uid}&kind=caption`); },
    F: () => decide(cards.filter((card) => !card.dataset.verdict), "keep"),
    D: () => decide(cards.filter((card) => !card.dataset.verdict), "drop"),
    n: () => follow("[rel=next]"), p: () => follow("[rel=prev]"),
  };
  const inSingle = {
    j: () => go(single.dataset.after), ArrowRight: () => go(single.dataset.after), n: () => go(single.dataset.after),
    k: () => go(single.dataset.before), ArrowLeft: () => go(single.dataset.before), p: () => go(single.dataset.before),
    Escape: () => go(single.dataset.back), m: () => follow("[data-like=image]"), M: () => follow("[data-like=caption]"),
  };
  async function verdict(value) {
    if (single) {
      if (await decide([single], value, one("#note").value)) value === "clear" ? location.reload() : go(single.dataset.after ?? location.href);
      return;
    }
    const card = current();
    if (!card) { say("Choose a pair first: j, k."); return; }
    if (await decide([card], value) && value !== "clear" && current() === card) {
      const at = cards.indexOf(card);
      if (at + 1 < cards.length) focus(cards[at + 1]);
    }
  }
  const help = one("#help");
  const everywhere = {
    f: () => verdict("keep"), d: () => verdict("drop"), c: () => verdict("clear"), u: undo,
    g: () => go("/campaigns"), "?": () => help.showModal(),
    "/": () => { const field = one("#search"); if (field) { field.focus(); field.select(); } else go("/"); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || help.open) return;
    if (event.target.closest("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.key === "Enter" && event.target.matches("[data-grid] > .card")) { go(event.target.dataset.open); return; }
    const action = (single ? inSingle : cards.length ? inGrid : {})[event.key] ?? everywhere[event.key];
    if (!action || (event.repeat && "fdFDuc".includes(event.key))) return;
    event.preventDefault();
    action();
  });
  one("[data-help]").addEventListener("click", () => help.showModal());
  for (const form of all("[data-decide]")) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const card = form.closest("[data-uid]");
      const value = event.submitter?.value ?? "keep";
      const same = card.dataset.verdict === value; // pressed again: taken off
      if (await decide([card], same ? "clear" : value, one("#note", form)?.value) && single) location.reload();
    });
  }
  one("[data-all]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    decide(cards.filter((card) => !card.dataset.verdict), event.submitter.value);
  });
  one("[data-undo]").addEventListener("submit", (event) => { event.preventDefault(); undo(); });

  const counted = one("[data-count]");
  if (counted) {
    fetch(counted.dataset.count, { headers: { accept: "application/json" } }).then((response) => response.json()).then((answer) => {
      if (answer.count !== undefined) counted.textContent = answer.count === 1 ? "1 pair" : `${answer.count.toLocaleString("en")} pairs`;
    }).catch(() => {});
  }
  if (location.hash.startsWith("#p-")) focus(document.getElementById(location.hash.slice(1)));
})();
