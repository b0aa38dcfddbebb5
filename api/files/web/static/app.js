// The browser's pages work without this file. It adds the keyboard, live results of a search,
// progress of a download, and copying. Names are guests' bytes: they reach the page as text
// nodes and percent-encoded addresses, never as markup.
"use strict";

const texts = JSON.parse(document.getElementById("texts").textContent);
const $ = (id) => document.getElementById(id);
const say = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, k) => values[k]);
const announce = (text) => { $("status").textContent = text; };

function bytes(n) {
  if (n < 1024) return n + " B";
  let unit = -1;
  do { n /= 1024; unit++; } while (n >= 1024 && unit < 5);
  return n.toFixed(1) + " " + "KMGTPE"[unit] + "iB";
}

// --- keyboard ---

const items = () => [...document.querySelectorAll("main a.item")];

function move(step) {
  const all = items();
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const row = document.activeElement && document.activeElement.closest("tr");
  const from = at >= 0 ? at : row ? all.findIndex((a) => row.contains(a)) : step > 0 ? -1 : all.length;
  const next = all[Math.min(Math.max(from + step, 0), all.length - 1)];
  next.focus();
  next.scrollIntoView({block: "nearest"});
}

const typing = (e) => e.isContentEditable || ["TEXTAREA", "SELECT"].includes(e.tagName) ||
  (e.tagName === "INPUT" && !["checkbox", "button", "submit"].includes(e.type));

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented) return;
  if (typing(e.target)) {
    if (e.key === "Escape") e.target.blur();
    return;
  }
  const dialog = $("help-dialog");
  if (dialog && dialog.open) return;
  const scrolls = e.target.closest(".wide"); // arrows scroll a preview that has the focus
  const keys = {
    j: () => move(1), k: () => move(-1),
    ArrowDown: scrolls || !items().length ? null : () => move(1),
    ArrowUp: scrolls || !items().length ? null : () => move(-1),
    "/": () => $("find").focus(),
    "?": () => dialog.showModal(),
    n: () => { const a = document.querySelector("a[rel=next]"); if (a) a.click(); },
    u: up, Backspace: up,
    x: () => {
      const row = e.target.closest("tr");
      const box = row && row.querySelector("input[type=checkbox]");
      if (box) box.click();
    },
  };
  const act = keys[e.key];
  if (act && $("find")) {
    e.preventDefault();
    act();
  }
});

function up() {
  const to = $("main").dataset.up;
  if (to) location.assign(to);
}

if ($("help-link")) {
  $("help-link").addEventListener("click", (e) => {
    e.preventDefault();
    $("help-dialog").showModal();
  });
}

// --- selection and download ---

const folder = $("folder");
// A download of more than this is left to the browser: what is received lies in its memory.
const maxHeld = 512 * 2 ** 20;
// What a server takes as one address.
const maxAddress = 24 << 10;

if (folder) {
  const boxes = () => [...folder.querySelectorAll("input[name=n]")];
  const all = $("all");
  const count = () => {
    const n = boxes().filter((b) => b.checked).length;
    $("chosen").textContent = n ? say("selected", {n}) : say("all");
    all.checked = n > 0 && n === boxes().length;
    all.indeterminate = n > 0 && !all.checked;
  };
  all.hidden = false;
  all.addEventListener("change", () => {
    boxes().forEach((b) => { b.checked = all.checked; });
    count();
  });
  folder.addEventListener("change", count);
  addEventListener("pageshow", count); // a browser that goes back remembers boxes
  folder.addEventListener("submit", (e) => {
    const button = e.submitter;
    const data = new FormData(folder, button);
    const address = (button && button.getAttribute("formaction") || "/download") + "?" + new URLSearchParams(data);
    if (address.length > maxAddress) {
      e.preventDefault();
      $("chosen").textContent = say("toolong");
      return;
    }
    if (!button || button.name !== "format") return;
    e.preventDefault();
    download(address, button.value);
  });
}

// fileName reads a Content-Disposition of ours.
function fileName(header, fallback) {
  const exact = /filename\*=UTF-8''([^;]+)/.exec(header || "");
  const plain = /filename="([^"]*)"/.exec(header || "");
  try {
    return exact ? decodeURIComponent(exact[1]) : plain ? plain[1] : fallback;
  } catch {
    return fallback;
  }
}

async function download(address, format) {
  const box = $("progress"), bar = box.querySelector("progress"), out = box.querySelector("output"), cancel = $("cancel");
  const stop = new AbortController();
  cancel.onclick = () => stop.abort();
  box.hidden = cancel.hidden = bar.hidden = false;
  const end = (text) => {
    cancel.hidden = bar.hidden = true;
    out.textContent = text;
    announce(text);
  };
  try {
    const answer = await fetch(address, {signal: stop.signal});
    if (answer.status === 401) return end(say("session"));
    if (!answer.ok) {
      const why = await answer.json().catch(() => ({}));
      return end([why.detail || answer.statusText, why.advice].filter(Boolean).join(" "));
    }
    const parts = [];
    let got = 0;
    for (const reader = answer.body.getReader(); ;) {
      const {done, value} = await reader.read();
      if (done) break;
      parts.push(value);
      got += value.length;
      out.textContent = say("running", {size: bytes(got)});
      if (got > maxHeld) {
        stop.abort();
        end(say("handed"));
        location.assign(address);
        return;
      }
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts, {type: "application/octet-stream"}));
    link.download = fileName(answer.headers.get("Content-Disposition"), "backup." + format);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    end(say("done", {size: bytes(got)}));
  } catch (e) {
    end(say(e.name === "AbortError" ? "cancelled" : "broken"));
  }
}

// --- search ---

// maxRows is how many matches stand in the page.
const maxRows = 1000;

document.querySelectorAll("form[action='/search']").forEach((form) => {
  form.addEventListener("formdata", (e) => e.formData.set("live", "1"));
});

// decode returns the bytes of a path: as text, or from base64 where it is not UTF-8.
const decode = (text, base64) => base64 ? Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)) : new TextEncoder().encode(text);

const encode = (path) => Array.from(path, (b) => b === 47 || /[A-Za-z0-9\-._~]/.test(String.fromCharCode(b))
  ? String.fromCharCode(b) : "%" + b.toString(16).toUpperCase().padStart(2, "0")).join("");

// visible adds text to an element with what is not printable as escapes.
function visible(to, text) {
  const bdi = document.createElement("bdi");
  for (const part of text.split(/((?! )[\p{C}\p{Z}\ufffd])/u)) {
    if (!part) continue;
    if (!/^(?! )[\p{C}\p{Z}\ufffd]$/u.test(part)) {
      bdi.append(part);
      continue;
    }
    const span = document.createElement("span");
    span.className = "esc";
    span.textContent = "\\u{" + part.codePointAt(0).toString(16) + "}";
    bdi.append(span);
  }
  to.append(bdi);
}

function matchRow(m) {
  const row = document.createElement("tr");
  const cells = ["c-name", "c-size", "c-time"].map((c) => {
    const td = row.insertCell();
    td.className = c;
    return td;
  });
  const ns = "http://www.w3.org/2000/svg";
  const icon = document.createElementNS(ns, "svg"), use = document.createElementNS(ns, "use");
  const kind = ["directory", "symlink", "file"].includes(m.type) ? m.type : "device";
  icon.setAttribute("class", "icon i-" + kind);
  icon.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#i-" + kind);
  icon.append(use);
  const link = document.createElement("a");
  link.className = "item";
  link.href = "/browse" + encode(decode(m.path, m.pathBytes));
  visible(link, m.path);
  cells[0].append(icon, link);
  if (m.type === "file") cells[1].textContent = bytes(m.size);
  if (m.mtime) cells[2].textContent = m.mtime.slice(0, 19).replace("T", " ");
  return row;
}

// lines reads NDJSON as it comes.
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield parts.map((p) => JSON.parse(p));
  }
}

async function search(table) {
  const body = table.tBodies[0], found = $("found"), button = $("stop");
  const stop = new AbortController();
  let n = 0, last = null;
  button.hidden = false;
  button.onclick = () => stop.abort();
  const end = (text) => {
    button.hidden = true;
    found.textContent = text + (n > maxRows ? " " + say("shown", {n: maxRows}) : "");
    table.dataset.done = "1";
  };
  try {
    const answer = await fetch(table.dataset.search, {signal: stop.signal});
    if (answer.status === 401) return end(say("session"));
    if (!answer.ok) {
      const why = await answer.json().catch(() => ({}));
      return end([why.detail || answer.statusText, why.advice].filter(Boolean).join(" "));
    }
    for await (const group of lines(answer.body)) {
      const rows = document.createDocumentFragment();
      for (const m of group) {
        if (m.event === "end") last = m;
        if (m.event !== "match") continue;
        if (++n <= maxRows) rows.append(matchRow(m));
      }
      body.append(rows);
      found.textContent = say("searching", {n});
    }
    let text = say("found", {n, objects: last ? last.objects : "?"});
    if (!last || !last.complete) text += " " + say("incomplete") + (last && last.why ? " " + [last.why.detail, last.why.advice].filter(Boolean).join(" ") : "");
    end(text);
  } catch (e) {
    end(say(e.name === "AbortError" ? "cancelled" : "broken"));
  }
}

const results = document.querySelector("[data-search]");
if (results) search(results);

// --- checksum and commands ---

const sum = document.querySelector("[data-sum]");
if (sum) {
  sum.addEventListener("click", async (e) => {
    e.preventDefault();
    const out = $("sum");
    out.textContent = say("computing");
    try {
      const answer = await fetch(sum.dataset.sum);
      const got = await answer.json();
      const code = document.createElement("code");
      code.textContent = answer.ok ? got.checksum : got.detail;
      out.replaceChildren(code);
      announce(code.textContent);
    } catch {
      out.textContent = say("broken");
    }
  });
}

document.querySelectorAll(".copy").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", async () => {
    let key = "copied";
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    } catch {
      key = "notcopied";
    }
    button.textContent = say(key);
    announce(say(key));
  });
});
