"use strict";

// Sorts a table by one of its columns; cells without a value stay at the end.
function sortTable(table, column, numeric, descending) {
  const value = (row) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? cell.dataset.key : cell.textContent.trim();
  };
  const compare = numeric
    ? (a, b) => Number(a) - Number(b)
    : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [value(row), row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const numeric = "numeric" in button.dataset;
      // Numbers are first sought from the top, names from A.
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, Number(button.dataset.column), numeric, descending);
    });
  }
}

for (const form of document.querySelectorAll("form.filters")) {
  const rows = Array.from(document.getElementById(form.dataset.table).tBodies[0].rows);
  const filter = () => {
    const { text, image, pixel } = form.elements;
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits =
        row.cells[0].textContent.toLowerCase().includes(wanted) &&
        (!image.value || row.dataset.image === image.value) &&
        (!pixel.value || row.dataset.pixel === pixel.value);
      row.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length} classes`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
