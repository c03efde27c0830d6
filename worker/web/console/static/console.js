// Pages work without this. With it they refresh what is live, answer to keys, and go on without a reload.
"use strict";

const told = () => document.getElementById("told");
let quiet = 0;

function tell(sentence) {
  if (!sentence) return;
  const place = told();
  place.textContent = "";
  place.classList.remove("over");
  // Emptied first, so that a screen reader says the same sentence again.
  window.setTimeout(() => { place.textContent = sentence; }, 30);
  window.clearTimeout(quiet);
  quiet = window.setTimeout(() => place.classList.add("over"), 4000);
}

async function read(address, options) {
  const answer = await fetch(address, { credentials: "same-origin", ...options });
  return { answer, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
}

// ------------------------------------------------------------ what is live
function keepFresh() {
  const live = document.querySelector("[data-refresh]");
  if (!live) return;
  window.setTimeout(async () => {
    if (live.isConnected && !document.hidden && !live.contains(document.activeElement) && !live.querySelector("details[open]")) {
      try {
        const { answer, page } = await read(location.href);
        const fresh = page.getElementById(live.id);
        if (answer.ok && fresh && live.isConnected) {
          if (fresh.dataset.say && fresh.dataset.say !== live.dataset.say) tell(fresh.dataset.say);
          live.replaceWith(fresh);
        }
      } catch { /* the server is away: look again */ }
    }
    keepFresh();
  }, 1000 * Number(live.dataset.refresh));
}

// ------------------------------------------------------------ pages that follow each other without a reload
let isSwapping = false;

async function swap(address, options) {
  if (isSwapping) return;
  isSwapping = true;
  try {
    const { answer, page } = await read(address, options);
    const main = page.getElementById("main");
    if (!main) { location.assign(address); return; }
    document.getElementById("main").replaceWith(main);
    document.title = page.title;
    if (answer.ok) history.pushState(null, "", answer.url);
    const note = main.querySelector("[data-told]");
    const question = main.querySelector("#question");
    tell([note && note.textContent.trim(), question && question.textContent.trim()].filter(Boolean).join(" ") || "Nothing is left here.");
    main.focus({ preventScroll: true });
    lookAhead();
    keepFresh();
  } catch {
    tell("The server does not answer. Nothing was changed; try again.");
  } finally {
    isSwapping = false;
  }
}

function lookAhead() {
  const next = document.querySelector("[data-next]");
  if (next && next.dataset.next) new Image().src = next.dataset.next;
}

// What moves something is asked for once: a second rollback would go further back.
function sendOnce(event) {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
  if (event.submitter) event.submitter.setAttribute("aria-busy", "true");
  tell("One moment …");
}

window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  for (const button of document.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-swap]");
  if (!form) { sendOnce(event); return; }
  event.preventDefault();
  const body = new FormData(form, event.submitter && event.submitter.name ? event.submitter : undefined);
  swap(form.action, { method: "POST", body: new URLSearchParams(body) });
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  swap(link.href);
});

window.addEventListener("popstate", () => location.reload());

// ------------------------------------------------------------ keys
const typesText = (place) => place && place.matches("input:not([type=checkbox]), textarea, select");

function walk(gallery, key) {
  const tiles = [...gallery.querySelectorAll("a")];
  const here = tiles.indexOf(document.activeElement);
  const top = tiles[0].getBoundingClientRect().top;
  const columns = Math.max(1, tiles.filter((tile) => Math.abs(tile.getBoundingClientRect().top - top) < 2).length);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const next = here < 0 ? 0 : here + step;
  if (tiles[next]) tiles[next].focus();
  return Boolean(tiles[next]);
}

function named(one) {
  const words = (one.labels && one.labels[0] ? one.labels[0] : one.querySelector("span") || one).cloneNode(true);
  for (const cap of words.querySelectorAll("kbd")) cap.remove();
  return words.textContent.trim();
}

function showKeys() {
  const dialog = document.getElementById("keys");
  const list = dialog.querySelector("dl");
  list.replaceChildren();
  const rows = [...document.querySelectorAll("[data-key]")].map((one) => [one.dataset.key, named(one)]);
  if (document.querySelector("[data-gallery]")) rows.push(["← → ↑ ↓", "from image to image"]);
  rows.push(["?", "these keys"]);
  for (const [key, text] of rows) {
    const term = document.createElement("dt"), said = document.createElement("dd"), cap = document.createElement("kbd");
    cap.textContent = key.replace("ArrowLeft", "←").replace("ArrowRight", "→").replace("Escape", "Esc");
    term.append(cap);
    said.textContent = text;
    list.append(term, said);
  }
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typesText(document.activeElement)) {
    if (event.key === "Escape") document.activeElement.blur();
    return;
  }
  if (event.key === "?") { event.preventDefault(); showKeys(); return; }
  const gallery = document.querySelector("[data-gallery]");
  if (gallery && event.key.startsWith("Arrow") && walk(gallery, event.key)) { event.preventDefault(); return; }
  const meant = document.querySelector(`[data-key="${CSS.escape(event.key)}"], [data-also="${CSS.escape(event.key)}"]`);
  if (!meant || meant.disabled || event.repeat) return;
  event.preventDefault();
  if (meant.matches("input")) meant.focus(); else meant.click();
});

lookAhead();
keepFresh();
