"use strict";
// Columns of the tables sort on a click. Without this script the page is complete, only not sortable.
document.querySelectorAll("table.sortable").forEach(function (table) {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);

    // Missing numbers go last, whatever the direction.
    function compare(a, b, column, sign) {
        const x = a.cells[column].dataset.value;
        const y = b.cells[column].dataset.value;
        if (x === "" || y === "") return (x === "") - (y === "");
        if (x === undefined || y === undefined) {
            const left = a.cells[column].textContent.trim();
            return sign * left.localeCompare(b.cells[column].textContent.trim());
        }
        return sign * (Number(x) - Number(y));
    }

    heads.forEach(function (head, column) {
        const label = head.querySelector(".label");
        if (!label) return;
        const button = document.createElement("button");
        button.type = "button";
        button.append(...label.childNodes);
        label.append(button);
        head.setAttribute("aria-sort", "none");
        button.addEventListener("click", function () {
            const up = head.getAttribute("aria-sort") !== "ascending";
            heads.forEach(function (other) {
                if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
            });
            head.setAttribute("aria-sort", up ? "ascending" : "descending");
            const rows = Array.from(body.rows);
            rows.sort(function (a, b) { return compare(a, b, column, up ? 1 : -1); });
            body.append(...rows);
        });
    });
});
