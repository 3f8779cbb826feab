// Tables sorted by clicking a heading or pressing Enter on it.

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const rises = heading.dataset.kind === "text" || /^Rank$|↓$/.test(heading.textContent); // best first
      const descending = before ? before === "ascending" : !rises;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table.tBodies[0], column, heading.dataset.kind, descending ? -1 : 1);
    });
  });
}

/** Sort by the values of the cells; those without a value come last in both directions. */
function sortRows(body, column, kind, direction) {
  const value = (row) => row.cells[column].dataset.value;
  const compare = kind === "number" ? (a, b) => a - b : (a, b) => a.localeCompare(b);
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    return a === "" || b === "" ? (a === "") - (b === "") : direction * compare(a, b);
  });
  body.append(...rows);
}

function startTables() {
  root.querySelectorAll("table.results").forEach(makeSortable);
}
