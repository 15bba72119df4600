"use strict";
// Shows the data of one report. Everything from the data enters the page as text, by `el`, and never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PLANS = data.plans, IN_TURN = data.in_turn;
  let shown = IN_TURN ? [0] : Array.from({ length: PLANS }, (_, plan) => plan);   // the plans that one sees
  const seen = (values) => shown.map((plan) => values[plan]);
  const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const ROWS_AT_START = 70, ROWS_OPEN = 25, LINES = 60, NEIGHBOURS = 36;
  const byId = (id) => document.getElementById(id);

  // ---- small helpers
  function el(tag, options = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (key === "class") element.className = value;
      else if (key === "onclick" || key === "onchange") element[key] = value;
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }
  const link = (text, onclick) => el("button", { type: "button", class: "link", onclick }, text);
  function short(number) {
    for (const [size, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (number >= size) return `${(number / size).toPrecision(3)}\u00a0${unit}`;
    return Number.isInteger(number) ? String(number) : number.toPrecision(3);
  }
  // (toLocaleString loads its tables for 30 ms)
  const plain = (number) => {
    if (number === null || number === undefined) return "–";
    return Number.isInteger(number) ? String(number).replace(/\B(?=(\d{3})+$)/g, ",") : Number(number).toLocaleString("en");
  };
  const changed = (before, after, write = String) => {
    if (!after.length || after.every((value) => value === before)) return write(before);
    return `${write(before)} → ${after.map((value) => write(value)).join(" | ")}`;
  };
  const percent = (part, whole) => {
    if (!whole) return "";
    const shown = (100 * part) / whole;
    return `${(part < whole ? Math.min(shown, 99.9) : shown).toFixed(1)}\u00a0%`; // a part is never told as all
  };

  // ---- nodes: names are written by what they share with the one before
  const nodes = [];
  data.nodes.names.reduce((last, [shared, rest], place) => {
    const name = last.slice(0, shared) + rest;
    const [operator, kind, where] = data.nodes.columns[place];
    nodes.push({
      name, place, operator: data.nodes.operators[operator], kind: data.nodes.classes[kind], where: data.nodes.where[where],
      inputs: [], outputs: [],
    });
    return name;
  }, "");
  const nodeOf = new Map(nodes.map((node) => [node.name, node]));
  const edges = [];
  for (let k = 0, target = 0; k < data.nodes.edges.length; k += 4) {
    target += data.nodes.edges[k];
    const source = target - data.nodes.edges[k + 1];
    const groups = data.nodes.sets[data.nodes.edges[k + 3]];
    const edge = { source, target, sides: groups.length ? data.nodes.sides[data.nodes.edges[k + 2]].split(" ") : [], groups };
    edges.push(edge);
    nodes[source].outputs.push(edge);
    nodes[target].inputs.push(edge);
  }

  // ---- the tree: a place in it knows its path and where its axes begin
  const spans = new Map();
  function span(tree) {
    if (!spans.has(tree)) {
      let count = (tree.tensors || []).reduce((sum, tensor) => sum + tensor[2].length, 0);
      for (const child of tree.children || []) count += span(child) * (child.members || [0]).length;
      spans.set(tree, count);
    }
    return spans.get(tree);
  }
  const dropped = (path, plan) =>
    data.drops[plan].some((drop) => drop.removed.some((name) => `${path}.`.startsWith(`${drop.prefix}${name}.`))) ||
    data.branches[plan].some((branch) => [branch.path, ...branch.beside].some((name) => `${path}.`.startsWith(`${name}.`)));
  const join = (path, name) => (path ? `${path}.${name}` : name);
  const costs = new Map();                   // of modules by path: parameters before and after, MACs before and after
  const tensorOf = new Map(), axisNames = [];
  function add(path, at, values) {
    for (let name = path; ; name = name.slice(0, Math.max(0, name.lastIndexOf(".")))) {
      if (!costs.has(name)) costs.set(name, [Array(PLANS + 1).fill(0), Array(PLANS + 1).fill(0)]);
      values.forEach((value, k) => { costs.get(name)[at][k] += value; });
      if (!name) break;
    }
  }
  (function walk(tree, path, offset) {
    for (const [name, kind, shape] of tree.tensors || []) {
      const full = join(path, name);
      tensorOf.set(full, { full, kind, path, offset, dims: shape.length });
      shape.forEach((_, dim) => axisNames.push([full, dim]));
      if (kind === "p") {
        const after = Array.from({ length: PLANS }, (_, plan) =>
          dropped(path, plan) ? 0 : shape.reduce((product, _, dim) => product * data.spaces[data.axes[offset + dim]][2][plan], 1));
        add(path, 0, [shape.reduce((product, size) => product * size, 1), ...after]);
      }
      offset += shape.length;
    }
    for (const child of tree.children || [])
      for (const name of child.members || [child.name]) {
        walk(child, join(path, name), offset);
        offset += span(child);
      }
  })(data.tree, "", 0);
  for (const [place, ...values] of data.nodes.macs) add(nodes[place].name, 1, values);
  for (const [name, aliases] of Object.entries(data.aliases)) if (tensorOf.has(name)) tensorOf.get(name).aliases = aliases;
  const axesOfGroup = data.groups.map(() => []);
  data.axes.forEach((space, axis) => data.spaces[space][4].forEach((group) => axesOfGroup[group].push(axis)));

  // ---- what is open, chosen and lit
  const open = new Set([""]), chosen = new Map();
  let picked = null, module = null, lit = new Set(), sums = null, centre = null, filter = "";
  function light(groups) {
    lit = new Set(groups);
    sums = new Int32Array(data.axes.length + 1);
    data.axes.forEach((space, axis) => { sums[axis + 1] = sums[axis] + (data.spaces[space][4].some((group) => lit.has(group)) ? 1 : 0); });
  }
  light([]);

  // ---- strips
  const shades = (from, to) => Array.from({ length: 9 }, (_, k) => `color-mix(in srgb, var(${to}) ${k * 12.5}%, var(${from}))`);
  const SHARES = shades("--kept", "--gone"), HEATS = shades("--cold", "--hot");
  function strip(cells, colours, extra = "") {
    const element = el("span", { class: `strip ${extra}`, "aria-hidden": "true" });
    const stops = [];
    for (let k = 0; k < cells.length; ) {
      let end = k + 1;
      const level = (cell) => (cell === "." ? -1 : Math.round((LEVELS.indexOf(cell) * 8) / 63));
      const now = level(cells[k]);
      while (end < cells.length && level(cells[end]) === now) end += 1;
      const colour = now < 0 ? "transparent" : colours[now];
      stops.push(`${colour} ${((100 * k) / cells.length).toFixed(2)}% ${((100 * end) / cells.length).toFixed(2)}%`);
      k = end;
    }
    element.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    return element;
  }
  function strips(place, tall = "") {
    const [, , , cells, groups, reasons] = data.spaces[place];
    if (!groups.length) return [el("span", { class: `strip ${tall} ${reasons.length ? "pinned" : "fixed"}`, "aria-hidden": "true" })];
    const all = (PLANS ? seen(cells) : [0]).map((text) => strip(data.texts[text] || "A", SHARES, tall));
    const own = data.groups[groups[0]];
    if (groups.length === 1 && own.space === place && own.heat) all.push(strip(own.heat[0], HEATS, `heat ${tall}`));
    return all;
  }

  // ---- rows of the tree
  const matches = (tree, path) =>
    !filter || path.toLowerCase().includes(filter) ||
    (tree.tensors || []).some(([name]) => join(path, name).toLowerCase().includes(filter)) ||
    (tree.children || []).some((child) => (child.members || [child.name]).some((name) => matches(child, join(path, name))));
  function sumOf(paths, at) {
    const total = Array(PLANS + 1).fill(0);
    for (const path of paths) (costs.get(path) || [[], []])[at].forEach((value, k) => { total[k] += value; });
    return total;
  }
  function moduleRow(tree, path, key, depth, all, span_, name) {
    const [params, macs] = [sumOf(all, 0), sumOf(all, 1)];
    const within = sums[span_[1]] - sums[span_[0]];
    const isOpen = open.has(key) || Boolean(filter);
    const gone = shown.length > 0 && shown.every((plan) => all.every((each) => dropped(each, plan)));
    const row = el("div", { class: `row module${within ? " lit" : ""}${gone ? " gone" : ""}${all.includes(module) ? " chosen" : ""}` });
    row.style.setProperty("--depth", depth);
    const toggle = el("button", {
      type: "button", class: "toggle", "aria-expanded": String(isOpen), "data-key": key,
      onclick: () => { isOpen ? open.delete(key) : open.add(key); draw(); },
    }, name);
    const what = el("span", { class: "what" }, toggle, el("span", { class: "soft" }, tree.class));
    if (all.length > 1) {
      const select = el("select", {
        "aria-label": `Which of ${all.length} equal modules`, "data-key": `${key}?`,
        onchange: (event) => { chosen.set(key, Number(event.target.value)); draw(); },
      }, ...tree.members.map((member, k) => el("option", { value: k, selected: k === (chosen.get(key) || 0) }, member)));
      what.append(el("span", { class: "soft" }, `${all.length} equal, shown:`), select);
      const goes = shown.map((plan) => all.filter((each) => dropped(each, plan)).length);
      if (goes.some(Boolean)) what.append(el("span", { class: "soft" }, `${goes.join(" | ")} go`));
    }
    if (data.frames[key]) what.append(link("drawing", () => chooseModule(path)));
    else if (nodeOf.has(path)) what.append(link("drawing", () => chooseNode(nodeOf.get(path).place)));
    if (gone) what.append(el("span", { class: "soft" }, "goes as a whole"));
    if (within) what.append(el("span", { class: "soft" }, `${within} lit`));
    row.append(what, el("span", { class: "cost" }, `${changed(params[0], seen(params.slice(1)), short)} params`,
      macs[0] ? ` · ${changed(macs[0], seen(macs.slice(1)), short)} MACs` : ""));
    return [row, isOpen];
  }
  function tensorRow(full, depth) {
    const { offset, dims, kind, aliases } = tensorOf.get(full);
    const row = el("div", { class: "row" });
    row.style.setProperty("--depth", depth);
    row.append(el("span", { class: "what tensor" }, full.slice(full.lastIndexOf(".") + 1),
      el("span", { class: "soft" }, kind === "b" ? "buffer" : "", aliases ? `tied: ${aliases.join(", ")}` : "")));
    const axes = el("span", { class: "axes" });
    for (let dim = 0; dim < dims; dim += 1) {
      const place = data.axes[offset + dim];
      const [, size, after, , groups, reasons] = data.spaces[place];
      if (size === 1 && !groups.length) continue;
      const state = groups.length ? "" : reasons.length ? ", pinned" : "";
      const classes = ["axis", groups.length ? "" : "narrow", groups.some((group) => lit.has(group)) ? "lit" : "", picked === offset + dim ? "chosen" : ""];
      axes.append(el("button", {
        type: "button", class: classes.join(" ").trim(), "data-key": `${full}:${dim}`, title: `${full} dim ${dim}`, "aria-pressed": String(picked === offset + dim),
        onclick: () => choose(offset + dim),
      }, el("span", { class: "label" }, `dim ${dim}: ${changed(size, seen(after))}${state}`), ...strips(place)));
    }
    row.append(axes);
    return row;
  }
  // `place` is the path by the first of equal modules: what is open or chosen is so for all of them
  function rows(tree, path, place, offset, depth, into) {
    for (const [name, , shape] of tree.tensors || []) {
      const full = join(path, name);
      if (shape.length && (!filter || full.toLowerCase().includes(filter))) into.push(tensorRow(full, depth));
      offset += shape.length;
    }
    for (const child of tree.children || []) {
      const members = child.members || [child.name];
      const all = members.map((name) => join(path, name));
      const key = join(place, members[0]), own = span(child);
      let k = Math.min(chosen.get(key) || 0, members.length - 1);
      if (filter && !matches(child, all[k])) k = all.findIndex((each) => matches(child, each));
      if (k >= 0) {
        const name = members.length > 1 ? `${members[0]} – ${members[members.length - 1]}` : child.name;
        const [row, isOpen] = moduleRow(child, all[k], key, depth, all, [offset, offset + own * members.length], name);
        into.push(row);
        if (isOpen) rows(child, all[k], key, offset + own * k, depth + 1, into);
      }
      offset += own * members.length;
    }
    return into;
  }
  function draw() {
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
    byId("tree").replaceChildren(...rows(data.tree, "", "", 0, 0, []));
    if (focused) {
      const again = [...byId("tree").querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused);
      if (again) again.focus();
    }
  }
  function expand(limit) {
    let level = [[data.tree, ""]], count = 1;
    while (level.length) {
      const next = level.flatMap(([tree, path]) => (tree.children || []).map((child) => [child, join(path, child.name)]));
      count += next.reduce((sum, [tree]) => sum + 1 + (tree.tensors || []).length, 0);
      if (count > limit) break;
      next.forEach(([, path]) => open.add(path));
      level = next;
    }
  }
  // the module at a path: its part of the tree, the rows that lead to it, it and its equals, and where their axes begin and end
  function moduleAt(path) {
    let tree = data.tree, above = "", key = "", all = [""], inner = 0, from = 0, to = data.axes.length;
    const rows = [];
    for (const step of path.split(".").filter(Boolean)) {
      let at = inner + (tree.tensors || []).reduce((sum, tensor) => sum + tensor[2].length, 0);
      let found = null;
      for (const child of tree.children || []) {
        const width = span(child) * (child.members || [0]).length;
        if ((child.members || [child.name]).includes(step)) {
          [found, from, to] = [child, at, at + width];
          break;
        }
        at += width;
      }
      if (!found) return null;
      const members = found.members || [found.name];
      key = join(key, members[0]);
      rows.push([key, members.indexOf(step), found]);
      all = members.map((name) => join(above, name));
      above = join(above, step);
      inner = from + span(found) * members.indexOf(step);
      tree = found;
    }
    return { tree, key, rows, all, from, to };
  }
  function reveal(path, inside = true) {
    const { rows: steps } = moduleAt(path);
    steps.forEach(([key, member, tree], k) => {
      if (inside || k < steps.length - 1) open.add(key);
      if (tree.members) chosen.set(key, member);
    });
  }

  // ---- many names as few
  const pattern = (name) => name.split(".").map((step) => (/^\d+$/.test(step) ? "*" : step)).join(".");
  function runs(numbers) {
    const sorted = [...new Set(numbers)].sort((one, other) => one - other), parts = [];
    for (let k = 0; k < sorted.length; ) {
      let end = k;
      while (end + 1 < sorted.length && sorted[end + 1] === sorted[end] + 1) end += 1;
      parts.push(end > k ? `${sorted[k]}-${sorted[end]}` : String(sorted[k]));
      k = end + 1;
    }
    return sorted.length > 1 ? `{${parts.join(",")}}` : parts[0];
  }
  function folded(names) {
    if (names.length === 1) return names[0];
    const split = names.map((name) => name.split("."));
    return split[0].map((step, k) => (/^\d+$/.test(step) ? runs(split.map((each) => Number(each[k]))) : step)).join(".");
  }
  function gathered(items, keyOf) {
    const alike = new Map();
    for (const item of items) {
      const key = keyOf(item);
      if (!alike.has(key)) alike.set(key, []);
      alike.get(key).push(item);
    }
    return [...alike.values()];
  }
  function listed(items, write) {
    const list = el("ul", {}, ...items.slice(0, LINES).map((item) => el("li", {}, ...write(item))));
    if (items.length > LINES) list.append(el("li", { class: "soft" }, `… and ${items.length - LINES} more`));
    return list;
  }

  // ---- the panel
  const anchor = (text) => history.replaceState(null, "", `#${text}`);
  function choose(axis, quiet = false) {
    const [full, dim] = axisNames[axis];
    picked = axis;
    module = null;
    light(data.spaces[data.axes[axis]][4]);
    const tensor = tensorOf.get(full);
    const node = nodeOf.get(tensor.path) || nodes.find((each) => each.name.startsWith(tensor.path ? `${tensor.path}.` : ""));
    centre = node ? node.place : null;
    if (!quiet) anchor(`axis=${encodeURIComponent(`${full}:${dim}`)}`);
    draw();
    panel();
  }
  function goTo(axis) {
    reveal(tensorOf.get(axisNames[axis][0]).path);
    choose(axis);
    const element = document.querySelector(".axis.chosen");
    if (element) { element.focus(); element.scrollIntoView({ block: "center" }); }
  }
  function chooseNode(place) {
    centre = place;
    anchor(`node=${encodeURIComponent(nodes[place].name)}`);
    panel();
  }
  function chooseModule(path, quiet = false) {
    const node = nodeOf.get(path);
    [module, picked] = [path, null];
    centre = node && !data.frames[moduleAt(path).key] ? node.place : null;
    light([]);
    reveal(path, false);
    if (!quiet) anchor(`module=${encodeURIComponent(path)}`);
    draw();
    panel();
    document.querySelector("#tree .row.chosen")?.scrollIntoView({ block: "nearest" });
  }
  function panel() {
    const parts = [];
    if (module !== null) parts.push(...moduleParts(module));
    if (picked !== null) parts.push(...axisParts(picked));
    if (centre !== null) parts.push(...nodeParts(nodes[centre]));
    if (!parts.length) parts.push(el("h2", {}, "Selection"), el("p", { class: "soft" },
      "Choose an axis in the tree: everything that is removed together with it lights up. Choose a box above: its module opens. Arrow keys move between rows, Enter chooses, / filters, Escape clears."));
    byId("detail").replaceChildren(...parts);
    byId("side").className = module === null && picked === null && centre === null ? "idle" : "";
    if (document.documentElement.dataset.ready) whole();
  }
  function moduleParts(path) {
    const { tree, key, all } = moduleAt(path);
    const [params, macs] = [sumOf(all, 0), sumOf(all, 1)];
    const facts = [["class", tree.class], ["equal ones", all.length > 1 ? folded(all) : ""],
      ["parameters", changed(params[0], seen(params.slice(1)), plain)], ["MACs", macs[0] ? changed(macs[0], seen(macs.slice(1)), plain) : ""]];
    const parts = [el("h2", {}, path), el("dl", {},
      ...facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))];
    if (data.frames[key]) parts.push(el("h3", {}, "Inside"), inside(key));
    return parts;
  }
  function axisParts(axis) {
    const [full, dim] = axisNames[axis];
    const [text, size, after, , groups, reasons] = data.spaces[data.axes[axis]];
    const parts = [el("h2", {}, `${full} dim ${dim}`), el("dl", {},
      el("dt", {}, "size"), el("dd", {}, changed(size, seen(after), plain)),
      el("dt", {}, "ranges over"), el("dd", {}, el("code", {}, text)))];
    if (!groups.length || data.groups[groups[0]].space !== data.axes[axis]) parts.push(...strips(data.axes[axis], "tall"));
    for (const reason of reasons) {
      const [why, way] = data.reasons[reason];
      parts.push(el("dl", { class: "why" }, el("dt", {}, "pinned"), el("dd", {}, why), el("dt", {}, "to free it"), el("dd", {}, way)));
    }
    if (!groups.length && !reasons.length) parts.push(el("p", { class: "soft" }, "Nothing of it can be removed: no group lies in it."));
    for (const group of groups) parts.push(...groupParts(group));
    return parts;
  }
  function groupParts(place) {
    const group = data.groups[place];
    const [, size, after] = data.spaces[group.space];
    const facts = [["role", group.role], ["indices", changed(size, seen(after), plain)]];
    if (group.bound) facts.push(["at least", `${group.bound} stay: ${group.why}`]);
    if (group.multiple) facts.push(["a multiple of", `${group.multiple[0]} stays: ${group.multiple[1]}`]);
    for (const plan of group.removed ? shown : [])
      if (group.removed[plan]) facts.push([shown.length > 1 ? `plan ${plan + 1} removes` : "removes", data.texts[group.removed[plan]]]);
    if (group.heat) facts.push(["scores", `${group.heat[1]} (lightest) to ${group.heat[2]} (strongest)`]);
    for (const [reason, members] of (group.balanced || []).map((balance) => data.balances[balance])) {
      const others = members.filter((other) => other !== place).map((other) => data.groups[other].name);
      facts.push(["loses as many as", `${gathered(others, pattern).map(folded).join(", ")}: ${reason}`]);
    }
    const parts = [el("h3", {}, `Group ${group.name}`), ...strips(group.space, "tall"),
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))];
    const members = axesOfGroup[place].map((axis) => [axis, ...axisNames[axis]]);
    const alike = gathered(members, ([, full, dim]) => `${pattern(full)}:${dim}`);
    parts.push(el("h3", {}, `${members.length} coupled axes`), listed(alike, (same) => [
      link(`${folded(same.map(([, full]) => full))} dim ${same[0][2]}`, () => goTo(same[0][0])), same.length > 1 ? ` (${same.length})` : "",
    ]));
    const chain = edges.filter((edge) => edge.groups.includes(place));
    const steps = gathered(chain, (edge) =>
      [pattern(nodes[edge.source].name), pattern(nodes[edge.target].name), edge.sides, nodes[edge.target].operator, nodes[edge.target].where].join("\n"));
    if (steps.length) parts.push(el("h3", {}, "Because of"), listed(steps, (same) => {
      const target = nodes[same[0].target];
      return [`${same[0].sides[0]} of `, link(folded(same.map((edge) => nodes[edge.source].name)), () => chooseNode(same[0].source)),
        ` → ${same[0].sides[1]} of `, link(folded(same.map((edge) => nodes[edge.target].name)), () => chooseNode(same[0].target)),
        el("span", { class: "soft" }, ` by ${target.operator}`, target.where ? ` at ${target.where}` : "")];
    }));
    return parts;
  }
  function nodeParts(node) {
    const facts = [["operator", node.operator], ["in", node.kind], ["source", node.where]].filter(([, value]) => value);
    return [el("h3", {}, `Around ${node.name}`),
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("p", { class: "soft" }, "Thick: what is lit passes. Solid: something prunable passes. Dashed: nothing prunable."), picture(node.place)];
  }

  // ---- the drawing: dagre places it
  function around(place) {
    const near = new Set([place]);
    let rim = [place];
    for (let step = 0; step < 3 && near.size < NEIGHBOURS; step += 1) {
      const next = [];
      for (const each of rim)
        for (const other of [...nodes[each].inputs.map((edge) => edge.source), ...nodes[each].outputs.map((edge) => edge.target)])
          if (!near.has(other) && near.size < NEIGHBOURS) { near.add(other); next.push(other); }
      rim = next;
    }
    return near;
  }
  const trimmed = (text, most) => (text.length > most ? `…${text.slice(1 - most)}` : text);
  function svg(tag, options, ...children) {
    const element = document.createElementNS(byId("blank").namespaceURI, tag);
    for (const [key, value] of Object.entries(options)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  const litness = (groups) => (groups.some((group) => lit.has(group)) ? 2 : groups.length ? 1 : 0);
  function picture(place) {
    const near = around(place);
    const boxes = [...near].map((each) => ({
      id: String(each), name: nodes[each].name, title: `${nodes[each].name}\n${nodes[each].operator} ${nodes[each].where}`,
      lines: [trimmed(nodes[each].name, 30), trimmed(nodes[each].operator, 34)],
      kind: each === place ? "centre" : "", onclick: () => chooseNode(each),
    }));
    const levels = new Map();
    for (const edge of edges)
      if (near.has(edge.source) && near.has(edge.target)) {
        const key = `${edge.source} ${edge.target}`;
        levels.set(key, Math.max(levels.get(key) || 0, litness(edge.groups)));
      }
    const arrows = [...levels].map(([key, level]) => ({ from: key.split(" ")[0], to: key.split(" ")[1], level, label: "" }));
    return diagram(`Neighbourhood of ${nodes[place].name}`, boxes, arrows, String(place));
  }
  // the inside of a module, or the whole: boxes of modules, equal ones as one, and of operators that join
  function inside(path) {
    const { boxes, arrows } = data.frames[path];
    const drawn = boxes.map((name, k) => ({ id: String(k), ...(name === "<in>" || name === "<out>" ? border(name) : nodeBox(name, path)) }));
    const size = ([before, after]) => changed(before, seen(after));
    const lines = arrows.map(([from, to, tensors, count]) => {
      const axes = tensors.map((spaces) => spaces.map((space) => data.widths[space]));
      const label = axes.map((row) => row.map((axis) => (row.length > 1 && size(axis).includes(" ") ? `(${size(axis)})` : size(axis))).join(" × ")).join(", ") + (count > axes.length ? ", …" : "");
      return { from: String(from), to: String(to), level: Math.max(0, ...axes.flat().map(([, , groups]) => litness(groups))), label };
    });
    const middle = drawn.find((box) => box.kind.includes("centre"));
    return diagram(path ? `Inside of ${path}` : "The whole model", drawn, lines, middle ? middle.id : null);
  }
  const border = (name) => ({ name: "", title: "", lines: [name === "<in>" ? "from outside" : "to outside", ""], kind: "border", onclick: null });
  function nodeBox(name, path) {
    const at = moduleAt(name), node = nodeOf.get(name);
    const inner = path && name.startsWith(`${path}.`) ? name.slice(path.length + 1) : name;
    if (at) return moduleBox(name, inner, at);
    return {
      name, title: node ? `${name}\n${node.operator} ${node.where}` : name,
      lines: [trimmed(inner, 38), node ? trimmed(node.operator.slice(node.operator.indexOf(" ") + 1), 34) : ""],
      kind: node && module === null && picked === null && centre === node.place ? "centre" : "", onclick: node ? () => chooseNode(node.place) : null,
    };
  }
  function moduleBox(name, inner, { tree, all, from, to }) {
    const params = sumOf(all, 0), sizes = seen(params.slice(1));
    let title = trimmed(inner, 30);
    if (all.length > 1) {
      const numbers = runs(all.map((each) => Number(each.slice(each.lastIndexOf(".") + 1)))).replace(/[{}]/g, "");
      const goes = shown.map((plan) => all.filter((each) => dropped(each, plan)).length);
      title = `${trimmed(inner.slice(0, inner.lastIndexOf(".") + 1) + numbers, 24)} ×${all.length}${goes.some(Boolean) ? `, ${goes.join(" | ")} go` : ""}`;
    }
    const isChosen = module !== null && all.some((each) => `${module}.`.startsWith(`${each}.`));
    return {
      name, title: `${folded(all)}\n${tree.class}, ${changed(params[0], sizes, plain)} parameters`,
      lines: [title, params[0] ? changed(params[0], sizes, short) : tree.class],
      kind: `module${isChosen ? " centre" : ""}${sums[to] > sums[from] ? " has-lit" : ""}`, onclick: () => chooseModule(name),
    };
  }
  // what is open stays where it was scrolled, and a box that has the focus keeps it
  function whole() {
    const place = byId("whole-picture"), old = place.firstElementChild;
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const now = inside("");
    if (old) old.replaceWith(now);
    else place.append(now);
    if (focused) [...now.querySelectorAll(".node")].find((box) => box.getAttribute("aria-label") === focused)?.focus();
  }
  let drawings = 0;
  function diagram(name, boxes, arrows, middle) {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: 18, ranksep: arrows.some((arrow) => arrow.label) ? 16 : 34, marginx: 12, marginy: 12 });
    for (const { id, lines } of boxes)
      graph.setNode(id, { width: Math.max(lines[0].length * 7.3, lines[1].length * 6.4) + 18, height: lines[1] ? 40 : 26 });
    for (const { from, to, label } of arrows)
      graph.setEdge(from, to, label ? { width: label.length * 6.4 + 10, height: 15, labelpos: "c" } : {});
    dagre.layout(graph);
    const { width, height } = graph.graph(), tip = `tip${(drawings += 1)}`;
    const image = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": name },
      svg("defs", {}, svg("marker", { id: tip, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, orient: "auto", markerUnits: "userSpaceOnUse" },
        svg("path", { d: "M0 0 L8 4 L0 8 z", class: "tip" }))));
    for (const { from, to, level } of arrows)
      image.append(svg("path", {
        class: ["edge", "edge forced", "edge lit"][level], "marker-end": `url(#${tip})`,
        d: graph.edge(from, to).points.map((point, k) => `${k ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join(" "),
      }));
    for (const { from, to, label } of arrows.filter((arrow) => arrow.label)) {
      const { x, y, width: wide } = graph.edge(from, to);
      image.append(svg("rect", { class: "plate", x: x - wide / 2 + 3, y: y - 7.5, width: wide - 6, height: 15 }),
        svg("text", { x, y: y + 4, "text-anchor": "middle", class: "width" }, label));
    }
    for (const box of boxes) image.append(boxOf(box, graph.node(box.id)));
    const frame = el("div", { class: "picture" }, image);
    const { x, y } = middle === null ? { x: width / 2, y: 0 } : graph.node(middle);
    requestAnimationFrame(() => frame.scrollTo(x - frame.clientWidth / 2, y - frame.clientHeight / 2));
    return frame;
  }
  function boxOf({ name, title, lines, kind, onclick }, { x, y, width, height }) {
    const group = svg("g", { class: `node ${kind}`.trim(), ...(onclick ? { role: "button", tabindex: 0, "aria-label": name } : {}) },
      svg("title", {}, title),
      svg("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 6 }),
      svg("text", { x, y: lines[1] ? y - 4 : y + 4, "text-anchor": "middle" }, lines[0]),
      ...(lines[1] ? [svg("text", { x, y: y + 12, "text-anchor": "middle", class: "op" }, lines[1])] : []));
    if (onclick) {
      group.addEventListener("click", onclick);
      group.addEventListener("keydown", (event) => boxKeys(event, onclick));
    }
    return group;
  }
  function boxKeys(event, onclick) {
    const ahead = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onclick();
    } else if (ahead) {
      const all = [...event.currentTarget.ownerSVGElement.querySelectorAll(".node[tabindex]")];
      const next = all[all.indexOf(event.currentTarget) + ahead];
      event.preventDefault();
      if (next) next.focus();
    }
  }

  // ---- cards and sections
  const NAMES = { params: "Parameters", macs: "MACs", latency: "Latency", memory: "Memory", active_params: "Active parameters" };
  const bytes = (number) => (number < 1000 ? `${plain(number)}\u00a0bytes` : `${short(number)}B`);
  const told = (write) => (value) => (value === null || value === undefined ? "–" : write(value));
  const writersOf = (name) => (name === "memory" ? [bytes, bytes] : [short, plain]).map(told);
  function card({ name, before, after, asked, parts }) {
    const [write, exact] = writersOf(name);
    const lines = shown.map((plan) => {
      const share = before && after[plan] !== null ? `, ${percent(after[plan], before)}` : "";
      const wish = asked[plan] === null ? "" : `, asked at most ${write(asked[plan])}`;
      return el("p", {}, `${shown.length > 1 ? `plan ${plan + 1}: ` : "after: "}${exact(after[plan])}${share}${wish}`);
    });
    const rows = (parts || []).map((part) => el("div", {}, el("dt", {}, part.name), el("dd", {}, changed(part.before, seen(part.after), bytes))));
    return el("div", { class: "card", "data-name": name }, el("h2", {}, NAMES[name] || name),
      el("div", { class: "big" }, before === null ? seen(after).map(write).join(" | ") : changed(before, seen(after), write)),
      el("p", {}, `before: ${exact(before)}`), ...lines, rows.length ? el("dl", {}, ...rows) : null);
  }
  function table(heads, lines) {
    return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head, k) =>
      el("th", { scope: "col", class: lines.length && typeof lines[0][k] === "number" ? "number" : null }, head)))),
      el("tbody", {}, ...lines.map((cells) => el("tr", {}, ...cells.map((cell) =>
        el("td", { class: typeof cell === "number" ? "number" : null }, ...(Array.isArray(cell) ? cell : [typeof cell === "number" ? plain(cell) : cell])))))));
  }
  function section(id, title, ...content) {
    const details = el("details", { id }, el("summary", {}, title), ...content);
    details.open = details.querySelectorAll("tbody tr").length <= ROWS_OPEN;
    byId("sections").append(details);
    byId("nav").append(el("a", { href: `#${id}`, onclick: () => { details.open = true; } }, title));
  }
  const ofPlan = (plan, title) => (shown.length > 1 ? `Plan ${plan + 1}: ${title[0].toLowerCase()}${title.slice(1)}` : title);
  function sections() {
    const were = new Map([...document.querySelectorAll("#sections > details")].map((each) => [each.id, each.open]));
    byId("sections").replaceChildren();
    byId("nav").replaceChildren();
    if (IN_TURN) section("plans", "Plans", table(["plan", ...data.cards.map(({ name }) => NAMES[name] || name)], data.cards[0].after.map((_, plan) => [
      [el("button", { type: "button", class: "link", "aria-pressed": String(shown[0] === plan), onclick: () => turn(plan) }, `plan ${plan + 1}`),
        shown[0] === plan ? " (shown)" : ""],
      ...data.cards.map((each) => costText(each, plan))])));
    section("pinned", "Pinned axes", el("p", {}, `${plain(data.coverage[0])} of ${plain(data.coverage[1])} parameters (${percent(...data.coverage)}) lie in groups.`),
      data.pinned.length ? table(["reason", "what would free them", "axes", ""], data.pinned.map((item) =>
        [item.reason, item.free, [listed(item.axes, (name) => [name])], item.count])) : el("p", {}, "None."));
    for (const plan of shown) {
      const edits = data.edits[plan], unread = data.unread[plan], drops = data.drops[plan], branches = data.branches[plan];
      if (edits.length) section(`edits-${plan}`, ofPlan(plan, "Attribute edits"), table(["attribute", "before", "after", ""],
        edits.map(([path, old, now, added]) => [path, old, now, added ? "added by hand" : ""])));
      if (unread.length) section(`unread-${plan}`, ofPlan(plan, "Attributes that forward does not read"), table(["attribute", "now", "perhaps"],
        unread.map(([path, value, sizes]) => [path, value, sizes.map(plain).join(" or ")])));
      if (drops.length) section(`drops-${plan}`, ofPlan(plan, "Dropped elements of lists"), table(["list", "go", "of", "renamed"], drops.map((drop) =>
        [drop.path || "the model", drop.removed.join(", "), drop.count, drop.left.map(([old, now]) => `${old} → ${now}`).join(", ")])));
      if (branches.length) section(`branches-${plan}`, ofPlan(plan, "Branches that leave"), table(["module that adds nothing", "goes with it"],
        branches.map((branch) => [branch.path, branch.beside.join(", ")])));
    }
    if (data.engine)
      section("engine", `Engine: ${data.engine.name}, ${data.engine.count} findings`, data.engine.rows.length
        ? table(["layer", "what", "size", "needs", "then", "why", "source"], data.engine.rows) : el("p", {}, "Nothing found."));
    if (data.difference)
      section("difference", "Where the plans differ", el("p", {}, data.difference.rows.length ? `${data.difference.rows.length} groups lose other indices.` : "They remove the same indices."), table(["group", "only plan 1 removes", "only plan 2 removes"],
        data.difference.rows.map(([name, one, other]) => {
          const place = data.groups.findIndex((group) => group.name === name);
          return [place < 0 ? name : [link(name, () => goTo(axesOfGroup[place][0]))], one, other];
        })));
    document.querySelectorAll("#sections > details").forEach((each) => { if (were.has(each.id)) each.open = were.get(each.id); });
  }

  // ---- plans in turn
  function costText({ name, before, after, asked }, plan) {
    const [write] = writersOf(name);
    const share = before && after[plan] !== null ? `, ${percent(after[plan], before)}` : "";
    return `${write(after[plan])}${share}${asked[plan] === null ? "" : `, asked ${write(asked[plan])}`}`;
  }
  function turn(plan) {
    const within = document.activeElement.closest("#plans");
    shown = [plan];
    byId("turn-range").value = plan + 1;
    byId("turn-range").setAttribute("aria-valuetext", `plan ${plan + 1} of ${PLANS}`);
    byId("turn-back").disabled = plan === 0;
    byId("turn-on").disabled = plan === PLANS - 1;
    byId("turn-name").textContent = `Plan ${plan + 1} of ${PLANS}`;
    show();
    if (within) document.querySelector("#plans [aria-pressed=true]").focus();
  }
  function show() {
    byId("cards").replaceChildren(...data.cards.map(card));
    sections();
    draw();
    panel();
  }
  function legend() {
    const entry = (text, background, extra = "") => {
      const swatch = el("span", { class: `swatch ${extra}` });
      if (background) swatch.style.background = background;
      return el("span", {}, swatch, text);
    };
    byId("legend").append(entry("stays", "var(--kept)"), PLANS ? entry("goes", "var(--gone)") : "",
      PLANS ? entry("some of each", SHARES[4]) : "", entry("pinned", "", "pinned"),
      ...(data.groups.some((group) => group.heat) ? [entry("scores, low to high", "linear-gradient(to right, var(--cold), var(--hot))")] : []),
      ...(shown.length > 1 ? [el("span", {}, "Upper strip: plan 1. Lower strip: plan 2.")] : []));
  }

  // ---- keys
  function arrows(event) {
    const target = event.target;
    if (target.tagName === "SELECT" || !event.key.startsWith("Arrow")) return;
    const inRow = (row) => [...row.querySelectorAll("button, select")];
    const row = target.closest(".row"), all = [...byId("tree").children].filter((each) => inRow(each).length);
    const place = inRow(row).indexOf(target);
    let next = null;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const other = all[all.indexOf(row) + (event.key === "ArrowDown" ? 1 : -1)];
      if (other) next = inRow(other)[Math.min(place, inRow(other).length - 1)];
    } else if (target.matches(".toggle") && (event.key === "ArrowRight") !== (target.getAttribute("aria-expanded") === "true")) {
      target.click();
      event.preventDefault();
      return;
    } else next = inRow(row)[place + (event.key === "ArrowRight" ? 1 : -1)];
    if (next) { next.focus(); event.preventDefault(); }
  }
  function clear() {
    picked = centre = module = null;
    light([]);
    history.replaceState(null, "", location.pathname + location.search);
    draw();
    panel();
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target.tagName !== "INPUT") { event.preventDefault(); byId("filter").focus(); }
    if (event.key === "Escape") {
      if (filter) { filter = byId("filter").value = ""; draw(); } else clear();
    }
  });
  byId("tree").addEventListener("keydown", arrows);
  byId("filter").addEventListener("input", (event) => { filter = event.target.value.trim().toLowerCase(); draw(); });
  byId("expand").onclick = () => { expand(Infinity); draw(); };
  byId("collapse").onclick = () => { open.clear(); draw(); };
  byId("theme").onclick = () => {
    const root = document.documentElement, now = root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.style.colorScheme = now === "dark" ? "light" : "dark";
  };

  // ---- begin
  function follow() {
    const [kind, text] = decodeURIComponent(location.hash.slice(1)).split(/=(.*)/s);
    const axis = kind === "axis" ? axisNames.findIndex(([full, dim]) => `${full}:${dim}` === text) : -1;
    if (axis >= 0) { reveal(tensorOf.get(axisNames[axis][0]).path); choose(axis, true); }
    if (kind === "module" && moduleAt(text)) chooseModule(text, true);
    if (kind === "node" && nodeOf.has(text)) { centre = nodeOf.get(text).place; panel(); }
  }
  legend();
  expand(ROWS_AT_START);
  if (IN_TURN) {
    byId("turn").hidden = false;
    byId("turn-range").max = PLANS;
    byId("turn-range").oninput = (event) => turn(Number(event.target.value) - 1);
    byId("turn-back").onclick = () => turn(shown[0] - 1);
    byId("turn-on").onclick = () => turn(shown[0] + 1);
    turn(0);
  } else show();
  follow();
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  document.documentElement.dataset.ready = "true";
  requestAnimationFrame(() => setTimeout(whole));          // the drawing is laid out when all else can be seen
})();
