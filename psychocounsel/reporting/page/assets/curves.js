// Turns a chart's data into plotly traces. Plotly reads some markup in every text, so our texts are escaped.
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const STROKES = ["", "7 4", "2 3", "7 3 2 3", "11 5", "11 3 2 3"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon"];
const COLOURS = 7;

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function wrapped(text, width) {
  const lines = [""];
  for (let word of String(text).split(/(?<=[\s,/_-])/)) {
    if (lines.at(-1).length + word.trimEnd().length > width && lines.at(-1)) lines.push("");
    for (; word.length > width; word = word.slice(width)) lines.push("", word.slice(0, width), "");
    lines[lines.length - 1] += word;
  }
  const whole = lines.map((line) => line.trim()).filter(Boolean);
  if (whole.length > 4) whole.splice(3, whole.length, `${whole[3]}…`);
  return whole.map(plain).join("<br>");
}

// Bias-corrected exponential moving average: its start is not pulled towards 0. A gap stays a gap.
function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// A chart of points at named places has the names on its y axis, because they have room there, one below another.
const namesWidth = (width) => (width < 500 ? 17 : 34); // characters per line

function intervalText(data, curve, place) {
  const low = curve.low[place], high = curve.high[place];
  return low === high ? data.no_interval : `${low} to ${high}`;
}

function hoverText(data, curve, state, y) {
  const named = (x) => data.ticks[Math.round(x)] ?? String(Number.isInteger(x) ? x : Number(x.toPrecision(4)));
  return curve.y.map((value, place) => {
    if (value === null) return "";
    const lines = [`<b>${plain(curve.title)}</b>`, `${plain(state.axis)}: ${plain(named(curve.x[state.axis][place]))}`];
    lines.push(`${plain(data.y)}: ${value}`);
    if (state.weight && !curve.points) lines.push(`smoothed: ${y[place].toPrecision(5)}`);
    if (curve.low && curve.low[place] !== null) lines.push(`95 % interval: ${intervalText(data, curve, place)}`);
    if (curve.labels) lines.push(wrapped(curve.labels[place], 60));
    return lines.join("<br>");
  });
}

function barsOf(curve, colour) {
  if (!curve.low) return undefined;
  const apart = (one, other) => one.map((value, n) => (value === null || other[n] === null ? 0 : value - other[n]));
  return { type: "data", symmetric: false, array: apart(curve.high, curve.y), arrayminus: apart(curve.y, curve.low),
    color: colour, thickness: 1.5, width: 3 };
}

function band(curve, x, state, colour) {
  const edge = { x, mode: "lines", type: "scatter", line: { width: 0 }, hoverinfo: "skip", connectgaps: false };
  return [
    { ...edge, y: smoothed(curve.low, state.weight) },
    { ...edge, y: smoothed(curve.high, state.weight), fill: "tonexty", fillcolor: colour.replace("rgb(", "rgba(").replace(")", ", 0.15)") },
  ];
}

function tracesOf(data, curve, state, colours) {
  const colour = colours.curves[curve.look % COLOURS];
  const visible = !state.hidden.has(curve.group);
  const x = curve.x[state.axis];
  const y = curve.points ? curve.y : smoothed(curve.y, state.weight);
  const few = y.length <= 40;
  const trace = {
    type: "scatter", visible, x, y, mode: curve.points ? "markers" : few ? "lines+markers" : "lines",
    hoverinfo: "text", hovertext: hoverText(data, curve, state, y), connectgaps: false,
    line: { color: colour, width: state.crowded ? 1.3 : 2, dash: DASHES[curve.look % DASHES.length] },
    marker: { color: colour, size: curve.points ? 9 : 6, symbol: SYMBOLS[curve.look % SYMBOLS.length] },
  };
  if (data.lies_down) return [{ ...trace, x: y, y: x, error_x: barsOf(curve, colour) }];
  if (curve.points) return [{ ...trace, error_y: barsOf(curve, colour) }];
  const under = curve.low && !state.crowded ? band(curve, x, state, colour).map((each) => ({ ...each, visible })) : [];
  return [...under, trace];
}

function shapesOf(data, state, colours) {
  const line = { color: colours.quiet, width: 1.5, dash: "dash" };
  const shapes = [];
  if (data.reference !== null && data.lies_down)
    shapes.push({ type: "line", xref: "x", yref: "paper", x0: data.reference, x1: data.reference, y0: 0, y1: 1, line });
  else if (data.reference !== null)
    shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: data.reference, y1: data.reference, line });
  if (data.diagonal) {
    let low = Infinity, high = -Infinity;
    for (const curve of data.curves) {
      for (const value of [...curve.x[state.axis], ...curve.y]) {
        if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
      }
    }
    shapes.push({ type: "line", x0: low, x1: high, y0: low, y1: high, line });
  }
  return shapes;
}

function layoutOf(data, state, colours, width) {
  const axis = (title, most = width < 500 ? 34 : 70) => ({
    title: { text: wrapped(title, most), standoff: 10 }, automargin: true, exponentformat: "e", gridcolor: colours.grid, zeroline: false,
    linecolor: colours.line, showline: true, tickcolor: colours.line, ticks: "outside", ticklen: 4,
  });
  const named = (shown) => ({
    tickvals: data.ticks.map((_, place) => place), ticktext: data.ticks.map((tick) => wrapped(tick, shown)),
    range: [-0.6, data.ticks.length - 0.4],
  });
  const down = data.lies_down;
  const x = down ? axis(data.y) : { ...axis(state.axis), ...(data.ticks.length ? named(16) : {}) };
  const y = down ? { ...axis(""), ...named(namesWidth(width)), range: [data.ticks.length - 0.4, -0.6] } : axis(data.y, width < 700 ? 26 : 50);
  return {
    width, height: heightOf(data, width), showlegend: false, hovermode: "closest", dragmode: "zoom", shapes: shapesOf(data, state, colours),
    paper_bgcolor: colours.page, plot_bgcolor: colours.page, margin: { l: 48, r: 16, t: 10, b: 40 }, xaxis: x, yaxis: y,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colours.ink },
    hoverlabel: { bgcolor: colours.raised, bordercolor: colours.line, font: { color: colours.ink, size: 13 }, align: "left", namelength: -1 },
    uirevision: state.axis,
  };
}

function heightOf(data, width) {
  if (!data.lies_down) return width < 700 ? 280 : 400;
  const lines = Math.max(...data.ticks.map((tick) => wrapped(tick, namesWidth(width)).split("<br>").length));
  return Math.max(190, 80 + data.ticks.length * Math.max(36, 12 + 17 * lines, 14 * data.curves.length));
}
