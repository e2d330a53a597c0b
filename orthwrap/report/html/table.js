// Sorts by a column's heading and shows the rows that hold what is typed. All is there without it.
"use strict";
document.documentElement.classList.add("scripted");
for (const table of document.querySelectorAll("table.kernels")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what has no figure comes last
        const numbers = Number(x) - Number(y);
        const least = Number.isNaN(numbers) ? x.localeCompare(y) : numbers;
        return down ? -least : least;
      };
      body.append(...[...rows].sort(order));
    });
  });
  const find = document.querySelector(".find input");
  const count = document.querySelector(".find output");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
}
