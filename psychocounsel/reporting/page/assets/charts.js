// A chart is drawn when it comes near the window, and redrawn when colours, width, axis, smoothing or shown curves change.
const charts = [...document.querySelectorAll(".chart")].filter((figure) => figure.querySelector(".plot")).map((figure) => ({
  figure, plot: figure.querySelector(".plot"), source: figure.querySelector("script"), data: null, drawn: false,
}));

function coloursNow() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const resolved = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { curves: [...Array(COLOURS).keys()].map((n) => resolved(`curve-${n}`)) };
  for (const name of ["page", "raised", "ink", "quiet", "line", "grid"]) found[name] = resolved(name);
  probe.remove();
  return found;
}

// Running plotly.js takes a second. It stays text until a chart comes near, so that the page can be read at once.
function plotly() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }
  return window.Plotly;
}

function draw(chart, width = chart.plot.clientWidth) {
  ready(chart);
  const colours = coloursNow();
  const traces = chart.data.curves.flatMap((curve) => tracesOf(chart.data, curve, chart.state, colours));
  chart.plot.classList.toggle("named", chart.data.lies_down);
  plotly().react(chart.plot, traces, layoutOf(chart.data, chart.state, colours, width), { displayModeBar: false, responsive: false });
  chart.drawn = true;
  chart.width = width;
  chart.figure.dataset.drawn = "";
}

// A chart's data are parsed when it is first drawn or used, because hundreds of curves take a moment.
function ready(chart) {
  if (chart.data) return;
  chart.data = JSON.parse(chart.source.textContent);
  chart.state = { axis: chart.data.axes[0], weight: 0, hidden: new Set(), crowded: chart.data.curves.length > 12 };
  drawSamples(chart);
}

// Draws a sample of each group's line and mark as SVG next to its name.
function drawSamples(chart) {
  const shape = (svg, name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  for (const button of chart.figure.querySelectorAll(".legend .curve")) {
    const group = Number(button.dataset.group), svg = button.querySelector("svg");
    const curve = chart.data.curves.find((each) => each.group === group);
    const marks = [["circle", { cx: 15, cy: 6, r: 4 }], ["rect", { x: 11, y: 2, width: 8, height: 8 }],
      ["path", { d: "M15 1l5 5-5 5-5-5z" }], ["path", { d: "M15 1l5 9h-10z" }], ["path", { d: "M13 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z" }],
      ["path", { d: "M10 3l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z" }],
      ["path", { d: "M15 0l1.6 4.2h4.4l-3.6 2.7 1.4 4.5-3.8-2.7-3.8 2.7 1.4-4.5-3.6-2.7h4.4z" }], ["path", { d: "M12 1h6l3 5-3 5h-6l-3-5z" }]];
    if (!curve.points) shape(svg, "line", { x1: 0, x2: 30, y1: 6, y2: 6, "stroke-dasharray": STROKES[curve.look % STROKES.length] });
    if (curve.points || curve.y.length <= 40) shape(svg, marks[curve.look % marks.length][0], { ...marks[curve.look % marks.length][1], class: "sign-shape" });
  }
}

const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    const chart = charts.find((each) => each.plot === target);
    if (!isIntersecting || chart.drawn) continue;
    draw(chart);
    near.unobserve(target);
  }
}, { rootMargin: "300px" });
const widths = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    const chart = charts.find((each) => each.plot === target);
    if (chart.drawn && !printing && target.clientWidth && target.clientWidth !== chart.width) draw(chart);
  }
});

function showGroups(chart, shown) {
  for (const button of chart.figure.querySelectorAll(".legend .curve")) {
    const group = Number(button.dataset.group), on = shown(group);
    button.setAttribute("aria-pressed", String(on));
    if (on) chart.state.hidden.delete(group);
    else chart.state.hidden.add(group);
  }
  chart.figure.querySelector(".legend .all")?.setAttribute("aria-pressed", String(chart.state.hidden.size === 0));
  draw(chart);
}

function onPress(chart, button) {
  const hidden = chart.state.hidden;
  if (button.matches(".whole")) plotly().relayout(chart.plot, chart.data.lies_down ? { "xaxis.autorange": true } : { "xaxis.autorange": true, "yaxis.autorange": true });
  else if (button.matches(".save")) plotly().downloadImage(chart.plot, { format: "svg", filename: chart.figure.id });
  else if (button.matches(".all")) { const all = hidden.size > 0; showGroups(chart, () => all); }
  else { const pressed = Number(button.dataset.group); showGroups(chart, (group) => (group === pressed) === hidden.has(group)); }
}

for (const chart of charts) {
  near.observe(chart.plot);
  widths.observe(chart.plot);
  chart.figure.addEventListener("click", (event) => {
    const button = event.target.closest(".controls .whole, .controls .save, .legend button");
    if (!button) return;
    ready(chart);
    onPress(chart, button);
  });
  chart.figure.querySelector(".axis")?.addEventListener("change", (event) => {
    ready(chart);
    chart.state.axis = event.target.value;
    draw(chart);
  });
  chart.figure.querySelector(".smoothing")?.addEventListener("input", (event) => {
    ready(chart);
    chart.state.weight = Number(event.target.value);
    event.target.nextElementSibling.textContent = chart.state.weight ? chart.state.weight.toFixed(2) : "none";
    draw(chart);
  });
}
document.addEventListener("colours", () => charts.filter((chart) => chart.drawn).forEach((chart) => draw(chart)));
