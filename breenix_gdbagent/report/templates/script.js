"use strict";
(function () {
  const $ = (query) => document.querySelector(query);

  const theme = $("#theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--bg").trim() === "#14161a";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });

  const axis = $(".axis");
  if (axis) {
    const canvas = $(".canvas");
    const inspect = $(".inspect");
    let zoom = 1;
    const scale = (next, at) => {
      const before = canvas.offsetWidth;
      const x = at === undefined ? axis.clientWidth / 2 : at;
      const place = (axis.scrollLeft + x) / before;
      zoom = Math.min(200, Math.max(1, next));
      canvas.style.setProperty("--zoom", zoom);
      axis.scrollLeft = place * canvas.offsetWidth - x;
    };
    $(".zoom").hidden = false;
    $(".zoom").addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (how) scale(how === "in" ? zoom * 1.8 : how === "out" ? zoom / 1.8 : 1);
    });
    axis.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      scale(zoom * Math.exp(-event.deltaY / 300), event.clientX - axis.getBoundingClientRect().left);
    }, { passive: false });
    axis.addEventListener("click", (event) => {
      const zone = event.target.closest(".zone");
      if (zone) {
        event.preventDefault();
        const width = Math.max(0.05, Number(zone.dataset.w));
        scale(85 / width);
        axis.scrollLeft = canvas.offsetWidth * Number(zone.dataset.x) / 100 - axis.clientWidth * 0.05;
      }
      const title = event.target.querySelector && event.target.querySelector("title");
      if (title && event.target.closest("svg")) {
        inspect.textContent = event.target.closest("svg").getAttribute("aria-label") + ": " + title.textContent;
      }
    });
  }

  const log = $(".log");
  if (log) {
    const stops = log.querySelectorAll(".stop");
    const last = stops.length ? stops[stops.length - 1] : log.lastElementChild;
    log.scrollTop = last.offsetTop - log.offsetTop - log.clientHeight * 0.75;
  }
  const filter = $("#filter");
  if (filter) {
    filter.parentElement.hidden = false;
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const line of document.querySelectorAll(".log > div:not(.stop)")) {
        line.classList.toggle("hide", !line.textContent.toLowerCase().includes(wanted));
      }
    });
  }

  const data = $("#table-data");
  if (!data) return;
  const { levels, nxe, roots, tables, unreadable } = JSON.parse(data.textContent);
  const tree = $(".tree");
  const names = JSON.parse(tree.dataset.names);
  const gone = new Set(unreadable);
  const NAMES = ["", "PT", "PD", "PDPT", "PML4", "PML5"];
  const BITS = [[0n, "P"], [1n, "W"], [2n, "U"], [3n, "PWT"], [4n, "PCD"], [5n, "A"], [6n, "D"], [8n, "G"], [9n, "AVL9"], [63n, "NX"]];
  const ADDRESS = 0x000ffffffffff000n;
  const bit = (entry, n) => (entry >> n & 1n) === 1n;
  const hex = (value) => "0x" + value.toString(16);
  const make = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const canonical = (va) => {
    const top = levels === 5 ? 57n : 48n;
    return BigInt.asUintN(64, BigInt.asIntN(Number(top), va));
  };
  const rightsOf = (r) => "r" + (r.w ? "w" : "-") + (r.x ? "x" : "-") + (r.u ? "u" : "s");
  const flagsOf = (entry, leaf, level) => BITS.filter(([n]) => bit(entry, n)).map(([, s]) => s)
    .concat(bit(entry, 7n) ? [level === 1 ? "PAT" : "PS"] : []).join(" ");

  const fill = (parent, key, level, base, rights) => {
    const runs = tables[key];
    if (!runs) {
      parent.append(make("div", "leaf off", gone.has(key) ? "this table lies in no memory that we have" : "too many tables for this file: use pt map"));
      return;
    }
    if (!runs.length) parent.append(make("div", "leaf off", "empty"));
    const shift = BigInt(12 + 9 * (level - 1));
    for (const [first, count, text, step] of runs) {
      const entry = BigInt("0x" + text);
      const va = canonical(base + (BigInt(first) << shift));
      const last = canonical(base + (BigInt(first + count) << shift) - 1n);
      const present = bit(entry, 0n);
      const leaf = level === 1 || (bit(entry, 7n) && level <= 3);
      const mine = { w: rights.w && bit(entry, 1n), u: rights.u && bit(entry, 2n), x: rights.x && !(bit(entry, 63n) && nxe !== false) };
      const index = count === 1 ? String(first) : first + "-" + (first + count - 1);
      const row = make(present && !leaf ? "summary" : "div", present && !leaf ? "" : "leaf");
      row.append(make("b", "", NAMES[level] + "[" + index + "] "));
      if (present) {
        const chip = make("span", leaf ? "chip" : "off", rightsOf(mine));
        if (leaf) chip.style.background = "var(--" + rightsOf(mine) + ")";
        row.append(chip);
      }
      row.append(" " + hex(va) + (count > 1 || (present && leaf) ? " - " + hex(last) : "") + "  ");
      const what = !present ? "not present, " + hex(entry) : leaf ? "→ " + hex(entry & ADDRESS) + (step ? " and on" : count > 1 ? ", one page " + count + " times" : "") : hex(entry) + (count > 1 ? ", one table in " + count + " slots" : "");
      row.append(make("span", "off", what + (present ? "  " + flagsOf(entry, leaf, level) : "")));
      if (present && !leaf) {
        const below = make("details");
        below.append(row);
        below.addEventListener("toggle", () => {
          if (below.open && below.childElementCount === 1) fill(below, (entry & ADDRESS).toString(16) + "." + (level - 1), level - 1, va, mine);
        });
        parent.append(below);
      } else parent.append(row);
    }
  };
  roots.forEach((root, number) => {
    const space = make("details");
    const head = make("summary");
    head.append(make("b", "", names[number]), make("span", "off", "  root " + root));
    space.append(head);
    space.addEventListener("toggle", () => {
      if (space.open && space.childElementCount === 1) fill(space, root.slice(2) + "." + levels, levels, 0n, { w: true, u: true, x: true });
    });
    tree.append(space);
  });
})();
