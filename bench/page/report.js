for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1); // nothing comes last either way
        const difference = "n" in head.dataset ? parseFloat(x) - parseFloat(y) : x < y ? -1 : x > y ? 1 : 0;
        return down ? -difference : difference;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(order));
    };
  });
}
