// A served page asks for the version of the report now and then, and reloads where it stands when that is another.
const POLL = 2000; // milliseconds
const stood = remembered.get("scroll");
if (stood !== null) requestAnimationFrame(() => scrollTo(0, Number(stood)));
setInterval(async () => {
  try {
    const answer = await fetch("version", { cache: "no-store" });
    if (!answer.ok || (await answer.text()) === document.body.dataset.version) return;
  } catch {
    return; // the server has ended: the page stays as it is
  }
  remembered.set("scroll", String(scrollY));
  location.reload();
}, POLL);
