// Replaces what is shown every few seconds; says so when nobody answers any more, since an old page looks like a good one.
const EVERY_MS = 5000;
let heard = new Date();
async function refresh() {
  try {
    const answer = await fetch(location.pathname + location.search, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(EVERY_MS) });
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = [...document.querySelectorAll("main details[open]")].map((details) => details.id);
    document.querySelector("main").replaceWith(next.querySelector("main"));
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    document.title = next.title;
    document.querySelector("link[rel=icon]").replaceWith(next.querySelector("link[rel=icon]"));
    document.getElementById("silent").hidden = true;
    document.body.classList.remove("old");
    heard = new Date();
  } catch {
    const silent = document.getElementById("silent");
    silent.textContent = `No answer since ${heard.toISOString().slice(11, 19)} UTC: the connector is down, or cannot be reached from here. What is below is old.`;
    silent.hidden = false;
    document.body.classList.add("old");
  }
  setTimeout(refresh, EVERY_MS);
}
setTimeout(refresh, EVERY_MS);
