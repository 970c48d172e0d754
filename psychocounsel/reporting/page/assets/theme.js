"use strict";
// Keeps the chosen colour theme when the page reloads, and marks the section in view in the navigation.
const theme = document.getElementById("theme");
const remembered = {
  // Some browsers refuse storage to local files: then nothing is remembered.
  get(key) { try { return sessionStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { sessionStorage.setItem(key, value); } catch { return; } },
};

function setTheme(value) {
  if (value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  document.dispatchEvent(new Event("colours"));
}

theme.value = remembered.get("theme") || "auto";
setTheme(theme.value);
theme.addEventListener("change", () => {
  remembered.set("theme", theme.value);
  setTheme(theme.value);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("colours")));

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("main > section").forEach((section) => reading.observe(section));

// A section that a link leads to is unfolded.
function unfold() {
  const folded = location.hash && document.getElementById(location.hash.slice(1))?.querySelector(":scope > .folded");
  if (folded) folded.open = true;
}
addEventListener("hashchange", unfold);
for (const link of links.values()) link.addEventListener("click", () => setTimeout(unfold));
unfold();
