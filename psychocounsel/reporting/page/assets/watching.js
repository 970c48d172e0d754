// A served page polls the report's version. When it changes, the page reloads at the same scroll position.
const POLL = 2000; // milliseconds
const stood = remembered.get("scroll");
if (stood !== null) requestAnimationFrame(() => scrollTo(0, Number(stood)));
setInterval(async () => {
  try {
    const answer = await fetch("version", { cache: "no-store" });
    if (!answer.ok || (await answer.text()) === document.body.dataset.version) return;
  } catch {
    return; // the server has ended: keep the page
  }
  remembered.set("scroll", String(scrollY));
  location.reload();
}, POLL);
