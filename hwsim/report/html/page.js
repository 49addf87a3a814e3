"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = read("charts"), cores = read("cores"), numbers = read("numbers");
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const VIRIDIS = [[253, 231, 37], [94, 201, 98], [33, 145, 140], [59, 82, 139], [68, 1, 84]];
  const ramp = (share) => {
    const at = Math.min(Math.max(share, 0), 1) * 4, n = Math.min(Math.floor(at), 3), f = at - n;
    return VIRIDIS[n].map((c, k) => Math.round(c + (VIRIDIS[n + 1][k] - c) * f));
  };

  // Charts: colours that begin with "@" are the theme's; what plotly would read as markup is text.
  const PLAIN = new Set(["x", "y", "text", "name", "categoryarray", "hovertext", "ticktext"]);
  const plain = (value) => typeof value === "string" ? value.replace(/&/g, "&amp;").replace(/</g, "&lt;") : value;
  const themed = (value, key) => {
    if (Array.isArray(value)) {
      if (value.length && typeof value[0] !== "object" && !PLAIN.has(key)) return value;
      return value.map((one) => themed(one, key));
    }
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, k)]));
    if (value === "@events") return [[0, "rgba(0,0,0,0)"], [1, colour("chip")]];
    if (typeof value === "string" && value.startsWith("@") && !PLAIN.has(key)) return colour(value.slice(1));
    return PLAIN.has(key) ? plain(value) : value;
  };
  const chosen = (name) => {
    const chart = charts[name];
    if (!chart.choices) return chart;
    return chart.choices[document.querySelector(`[data-choose="${name}"]`).value];
  };
  const shorter = (text, most) => text.length > most ? text.slice(0, most / 2 - 1) + "…" + text.slice(-most / 2) : text;
  const PAPER = 660;  // pixels across a printed page
  let printing = false;
  const draw = (name) => {
    const chart = chosen(name), place = document.getElementById(name);
    const narrow = !printing && place.clientWidth < 480;
    const axis = { gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), fixedrange: narrow };
    const layout = themed(chart.layout);
    layout.xaxis = { ...axis, automargin: true, ...layout.xaxis };
    layout.yaxis = { ...axis, ...layout.yaxis };
    if (narrow) Object.assign(layout.xaxis, { dtick: undefined, nticks: 4, tickangle: 0 });
    if (printing) layout.width = PAPER;
    if (layout.yaxis.type === "category") {
      const labels = [...new Set(chart.data.flatMap((trace) => trace.y))];
      const most = narrow ? 20 : 34;
      Object.assign(layout.yaxis, { tickmode: "array", tickvals: labels.map(plain), ticktext: labels.map((one) => plain(shorter(one, most))) });
    }
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: narrow ? 10.5 : 12 },
      margin: { l: 8, r: 14, t: 8, b: 44 }, hovermode: "closest", dragmode: narrow ? false : "zoom",
      hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
      showlegend: chart.data.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, ...layout.legend },
    });
    if (layout.showlegend) layout.height += narrow ? 24 * Math.ceil(chart.data.length / 2) : 24;
    return Plotly.react(place, themed(chart.data), layout, { responsive: true, displaylogo: false, displayModeBar: false });
  };
  const drawAll = () => Promise.all(Object.keys(charts).filter((name) => document.getElementById(name)).map(draw));
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const start = async () => {
    const script = document.createElement("script");
    script.textContent = await unpack(document.getElementById("plotly").textContent);
    document.head.append(script);
    await drawAll();
    root.dataset.ready = "true";
  };

  // Light and dark.
  const choice = document.getElementById("theme");
  const paint = () => {
    const now = printing ? "light" : choice.value === "auto" ? (dark.matches ? "dark" : "light") : choice.value;
    root.dataset.theme = now;
    for (const section of all("[data-cores]")) paintCores(section);
    return window.Plotly ? drawAll() : null;
  };
  choice.addEventListener("change", () => paint());
  dark.addEventListener("change", () => paint());
  for (const event of ["beforeprint", "afterprint"]) addEventListener(event, () => {
    printing = event === "beforeprint";
    for (const more of all("details")) more.open = printing;
    paint();
  });
  for (const select of all("[data-choose]")) select.addEventListener("change", () => draw(select.dataset.choose));

  // Cores.
  function paintCores(section) {
    const known = cores[section.dataset.cores], [kind, name] = section.querySelector("[data-colour]").value.split(":");
    const value = (core) => core[kind][name];
    const most = kind === "used" ? 1 : Math.max(...Object.values(known).map((core) => kind === "layer" ? 0 : value(core)));
    section.querySelector(".ramp").hidden = kind === "layer";
    section.querySelector("[data-most]").textContent = kind === "used" ? "100 %" : `${Math.round(most).toLocaleString("en")} a sample`;
    for (const group of all("g.core", section)) {
      const core = known[group.dataset.core], rect = group.querySelector("rect"), text = group.querySelector("text");
      rect.dataset.layer ??= rect.style.fill;
      text.dataset.layer ??= text.style.fill;
      const shade = kind === "layer" ? null : ramp(most ? value(core) / most : 0);
      rect.style.fill = shade ? `rgb(${shade})` : rect.dataset.layer;
      text.style.fill = shade ? (shade[1] < 120 ? "#fff" : "#000") : text.dataset.layer;
    }
  }
  const point = (section, group) => {
    all("g.core.at", section).forEach((one) => one.classList.remove("at"));
    group.classList.add("at");
    section.querySelector("p.core").textContent = cores[section.dataset.cores][group.dataset.core].about;
  };
  for (const section of all("[data-cores]")) {
    section.querySelector("[data-colour]").addEventListener("change", () => paintCores(section));
    section.querySelector("[data-traffic]").addEventListener("change", (event) => section.classList.toggle("no-traffic", !event.target.checked));
    for (const group of all("g.core", section)) {
      group.addEventListener("pointerenter", () => point(section, group));
      group.addEventListener("click", () => point(section, group));
    }
    for (const plan of all(".plan", section)) plan.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const own = all("g.core", plan), from = plan.querySelector("g.core.at");
      if (!from) return own.length && point(section, own[0]);
      const middle = (group) => { const r = group.querySelector("rect"); return [+r.getAttribute("x"), +r.getAttribute("y")]; };
      const [x, y] = middle(from);
      const ahead = own.map((group) => { const [u, v] = middle(group); return [group, (u - x) * way[0] + (v - y) * way[1], Math.abs((u - x) * way[1]) + Math.abs((v - y) * way[0])]; })
        .filter(([, along]) => along > 0).sort((a, b) => a[1] + 3 * a[2] - b[1] - 3 * b[2]);
      if (ahead.length) point(section, ahead[0][0]);
    });
  }

  // Switches, search, files.
  for (const button of all("[data-show]")) button.addEventListener("click", () => {
    const section = button.closest("section");
    for (const one of all("[data-show]", section)) one.setAttribute("aria-pressed", String(one === button));
    for (const view of all("[data-view]", section)) view.hidden = view.dataset.view !== button.dataset.show;
  });
  for (const section of all("[data-search]")) {
    const words = section.querySelector("[data-words]"), tag = section.querySelector("[data-trust]"), rows = all("tbody tr", section);
    const search = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !(wanted.every((word) => row.textContent.toLowerCase().includes(word)) && (!tag.value || row.dataset.tag === tag.value));
      section.querySelector("[data-found]").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    words.addEventListener("input", search);
    tag.addEventListener("change", search);
  }
  const flat = function* (value, path) {
    if (value !== null && typeof value === "object")
      for (const [key, one] of Object.entries(value)) yield* flat(one, path ? `${path}.${key}` : key);
    else yield [path, value];
  };
  const cell = (value) => { const text = value === null ? "" : String(value); return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const button of all("[data-save]")) button.addEventListener("click", () => {
    const report = numbers[button.closest("article").dataset.report];
    if (button.dataset.save === "json") save(`${report.model}.report.json`, "application/json", JSON.stringify(report, null, 2));
    else save(`${report.model}.report.csv`, "text/csv", ["path,value", ...[...flat(report, "")].map((row) => row.map(cell).join(","))].join("\r\n") + "\r\n");
  });

  paint();
  start();
})();
