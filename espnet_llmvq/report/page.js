"use strict";
// Without this script the page is complete, only not sortable, and without utterances of two systems side by side.
// No text is ever taken for markup: all of it is set as text.

function make(tag, attributes, ...content) {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(function ([name, value]) { element.setAttribute(name, value); });
    element.append(...content);
    return element;
}

function button(action, ...content) {
    const element = make("button", { type: "button" }, ...content);
    element.addEventListener("click", action);
    return element;
}

document.querySelectorAll(".scripted").forEach(function (element) { element.hidden = false; });

// Columns of the tables sort on a click.
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
        label.append(button(function () {
            const up = head.getAttribute("aria-sort") !== "ascending";
            heads.forEach(function (other) {
                if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
            });
            head.setAttribute("aria-sort", up ? "ascending" : "descending");
            const rows = Array.from(body.rows);
            rows.sort(function (a, b) { return compare(a, b, column, up ? 1 : -1); });
            body.append(...rows);
        }, ...label.childNodes));
        head.setAttribute("aria-sort", "none");
    });
});

// Paper shows what is open.
(function () {
    const tools = document.querySelector(".tools");
    const parts = Array.from(document.querySelectorAll("details"));
    tools.hidden = false;
    if (parts.length) {
        const all = button(function () {
            const open = !parts.every(function (part) { return part.open; });
            parts.forEach(function (part) { part.open = open; });
            all.textContent = open ? "Close all parts" : "Open all parts";
        }, "Open all parts");
        tools.append(all, " ");
    }
    tools.append(button(function () { window.print(); }, "Print, or save as PDF"));
})();

// A timed word plays from its place, and is marked while it is heard.
document.querySelectorAll(".timed").forEach(function (reference) {
    const audio = reference.closest("details").querySelector("audio");
    const words = Array.from(reference.querySelectorAll(".word"), function (word) {
        const start = Number(word.dataset.start), end = Number(word.dataset.end);
        const one = button(function () {
            audio.currentTime = start;
            audio.play().catch(function () {}); // what cannot be played shows it itself
        }, word.textContent);
        one.className = "word";
        one.title = word.title;
        word.replaceWith(one);
        return { one: one, start: start, end: end };
    });
    let asked = 0;
    function mark() {
        words.forEach(function (word) {
            const now = !audio.ended && audio.currentTime >= word.start && audio.currentTime < word.end;
            word.one.classList.toggle("now", now);
        });
        asked = audio.paused ? 0 : requestAnimationFrame(mark);
    }
    ["play", "pause", "seeked", "ended"].forEach(function (event) {
        audio.addEventListener(event, function () {
            cancelAnimationFrame(asked);
            mark();
        });
    });
});

// Two systems, utterance by utterance.
(function () {
    const source = document.getElementById("pairs");
    if (!source) return;
    const AT_ONCE = 20;
    const { labels, sets } = JSON.parse(source.textContent);
    const names = Object.keys(labels);
    const place = document.getElementById("pair");
    const unpacked = new Map();
    let asked = 0; // of several choices in a row the last one counts

    const plural = function (number, one, many) { return number.toLocaleString("en") + " " + (number === 1 ? one : many); };

    // The utterances of a set, or null if it is not in the page.
    async function read(number) {
        if (!unpacked.has(number)) {
            const packed = document.querySelector("#compare script[data-set='" + number + "']");
            if (!packed) return null;
            const bytes = Uint8Array.from(atob(packed.textContent), function (c) { return c.charCodeAt(0); });
            const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
            unpacked.set(number, JSON.parse(await new Response(stream).text()));
        }
        return unpacked.get(number);
    }

    function pair(kind, ref, hyp) {
        return make("span", { class: "pair " + kind }, make("span", {}, ref), make("span", {}, hyp));
    }

    // What one system wrote of an utterance, against its reference: as `errors_of` tells it.
    function diff(ref, told) {
        const words = ref ? ref.split(" ") : [];
        const line = make("p", { class: "diff", role: "img", dir: "auto" });
        const spoken = [];
        let at = 0, cut = 0;
        function same(end) {
            for (; at < end; at++) line.append(pair("same", words[at], words[at]), " ");
        }
        for (let i = 1; told && i < told.length; i += 3) {
            const [where, op, hyp] = told.slice(i, i + 3);
            same(where);
            if (op === "S") {
                line.append(pair("sub", make("del", {}, words[at]), make("ins", {}, hyp)), " ");
                spoken.push("“" + hyp + "” for “" + words[at++] + "”");
            } else if (op === "D") {
                line.append(pair("del", make("del", {}, words[at]), ""), " ");
                spoken.push("“" + words[at++] + "” left out");
            } else if (op === "I") {
                line.append(pair("ins", "", make("ins", {}, hyp)), " ");
                spoken.push("“" + hyp + "” put in");
            } else if (op === "+") {
                line.append(pair("ins", "", make("em", {}, hyp + " more")), " ");
                spoken.push(hyp + " more put in");
            } else {
                cut = hyp;
            }
        }
        if (!cut) same(words.length);
        line.setAttribute("aria-label", spoken.length ? "Errors: " + spoken.join("; ") : "No errors: " + ref);
        return cut ? [line, make("p", { class: "detail" }, cut + " more words are not shown.")] : [line];
    }

    function side(name, ref, told, fewer) {
        const errors = told ? told[0] : 0;
        const head = make("p", {}, make("b", {}, labels[name]), " ",
            make("span", { class: "fact" }, plural(errors, "error", "errors")));
        if (fewer) head.append(make("span", { class: "mark" }, "fewer"));
        return make("div", { class: "side" }, head, ...diff(ref, told));
    }

    function entry(found, one, other) {
        const { set, utt, ref, left, right } = found;
        const words = ref ? ref.split(" ").length : 0;
        const item = make("li", { class: "utterance" }, make("p", {}, make("span", { class: "id" }, utt), " ",
            make("span", { class: "fact" }, set + ", " + plural(words, "word", "words"))));
        const audio = Array.from(document.querySelectorAll("#utterances audio")).find(function (known) {
            return known.dataset.set === set && known.dataset.utt === utt;
        });
        if (audio) {
            item.append(make("audio", { controls: "", preload: "none", src: audio.src, "aria-label": "Audio of " + utt }));
        }
        const errors = [left, right].map(function (told) { return told ? told[0] : 0; });
        item.append(make("div", { class: "sides" }, side(one, ref, left, errors[0] < errors[1]),
            side(other, ref, right, errors[1] < errors[0])));
        return item;
    }

    // The utterances of some sets in which `sign` is that of the difference in errors.
    async function list(one, other, numbers, sign, title) {
        const mine = ++asked;
        const found = [], missing = [];
        if (typeof DecompressionStream === "undefined") {
            const old = "This browser is too old to unpack the utterances; use a newer one.";
            place.querySelector(".found").replaceChildren(make("p", { role: "status" }, old));
            return;
        }
        for (const number of numbers) {
            const set = await read(number);
            if (!set) {
                missing.push(sets[number].name);
                continue;
            }
            if (!set.errors[one] || !set.errors[other]) continue;
            set.utts.forEach(function (utt, i) {
                const left = set.errors[one][i], right = set.errors[other][i];
                const difference = (right ? right[0] : 0) - (left ? left[0] : 0);
                if (Math.sign(difference) !== sign) return;
                if (!sign && JSON.stringify(left) === JSON.stringify(right)) return;
                found.push({ set: sets[number].name, utt: utt, ref: set.refs[i], left: left, right: right,
                    size: Math.abs(difference) || (left ? left[0] : 0) });
            });
        }
        if (mine !== asked) return;
        found.sort(function (a, b) { return b.size - a.size; });
        const where = place.querySelector(".found");
        const heading = make("h4", { tabindex: "-1" }, title);
        const said = make("p", { role: "status" }, sign ? plural(found.length, "utterance", "utterances") +
            ", the largest difference first." : plural(found.length, "utterance", "utterances") + " with other words.");
        if (missing.length) {
            said.append(" Not in this page, for want of room (--max_text_mib): " + missing.join(", ") + ".");
        }
        const items = make("ol", { class: "plain" });
        const more = button(function () {
            const first = items.children.length;
            found.slice(first, first + AT_ONCE).forEach(function (one_found) { items.append(entry(one_found, one, other)); });
            const left = found.length - items.children.length;
            more.hidden = !left;
            more.textContent = "Show " + Math.min(left, AT_ONCE) + " more of " + left;
            if (first) {
                items.children[first].tabIndex = -1;
                items.children[first].focus();
            }
        });
        where.replaceChildren(heading, said, items, more);
        more.click();
        heading.focus();
        heading.scrollIntoView({ block: "start" });
    }

    function show(one, other, after) {
        const both = sets.map(function (set, number) { return { ...set, number: number }; }).filter(function (set) {
            return set.wins[one] && set.wins[one][other] !== undefined;
        });
        const rows = both.map(function (set) {
            return { name: set.name, numbers: [set.number], utterances: set.utterances, wins: set.wins[one][other],
                losses: set.wins[other][one], errors: [set.errors[one], set.errors[other]] };
        });
        if (rows.length > 1) {
            const sum = function (of) { return rows.reduce(function (total, row) { return total + of(row); }, 0); };
            rows.unshift({ name: "all sets", numbers: both.map(function (set) { return set.number; }),
                utterances: sum(function (row) { return row.utterances; }), wins: sum(function (row) { return row.wins; }),
                losses: sum(function (row) { return row.losses; }),
                errors: [0, 1].map(function (i) { return sum(function (row) { return row.errors[i]; }); }) });
        }
        const [first, second] = [labels[one], labels[other]];
        const columns = ["Set", first + " has fewer", second + " has fewer", "as many",
            "errors of " + first, "errors of " + second];
        const head = make("tr", {}, ...columns.map(function (text, i) {
            return make("th", i ? { scope: "col", class: "number" } : { scope: "col" }, text);
        }));
        const body = make("tbody", {}, ...rows.map(function (row) {
            const counts = [[row.wins, 1, first + " has fewer errors than " + second],
                [row.losses, -1, second + " has fewer errors than " + first],
                [row.utterances - row.wins - row.losses, 0, first + " and " + second + " have as many errors"]];
            return make("tr", {}, make("th", { scope: "row" }, row.name), ...counts.map(function ([count, sign, title]) {
                const of_set = title + ": " + row.name;
                const open = button(function () { list(one, other, row.numbers, sign, of_set); }, count.toLocaleString("en"));
                open.setAttribute("aria-label", count + " utterances, " + of_set);
                open.className = "open";
                return make("td", { class: "number" }, open);
            }), ...row.errors.map(function (errors) {
                return make("td", { class: "number" }, errors.toLocaleString("en"));
            }));
        }));
        const title = first + " and " + second;
        place.querySelector(".counts").replaceChildren(make("div", { class: "scroll", role: "region", tabindex: "0",
            "aria-label": title + ", table" }, make("table", { class: "data" },
            make("caption", { class: "unseen" }, title), make("thead", {}, head), body)));
        place.querySelector(".found").replaceChildren();
        place.hidden = false;
        choices.forEach(function (choice, i) { choice.value = [one, other][i]; });
        asked++;
        if (after) list(one, other, rows[0].numbers, 1, first + " has fewer errors than " + second + ": " + rows[0].name);
    }

    // The pair is chosen by a number of the table, or by two lists.
    const choices = ["First", "Second"].map(function (label, i) {
        const choice = make("select", { "aria-label": label + " system" }, ...names.map(function (name) {
            const option = make("option", {}, labels[name]);
            option.value = name;
            return option;
        }));
        choice.addEventListener("change", function () {
            if (choices[0].value === choices[1].value) { // the other one gives way
                choices[1 - i].value = names[(names.indexOf(choice.value) + 1) % names.length];
            }
            show(choices[0].value, choices[1].value, false);
        });
        return choice;
    });
    place.append(make("h3", {}, "Side by side"), make("p", { class: "choices" }, choices[0], " and ", choices[1]),
        make("div", { class: "counts" }), make("div", { class: "found" }));
    const table = document.querySelector("#compare table");
    const heads = Array.from(table.tHead.rows[0].cells);
    Array.from(table.tBodies[0].rows).forEach(function (row) {
        Array.from(row.cells).forEach(function (cell, i) {
            const [one, other] = [row.dataset.system, heads[i].dataset.name];
            if (!cell.dataset.value) return;
            const count = cell.textContent.trim();
            const open = button(function () { show(one, other, true); }, count);
            open.className = "open";
            open.setAttribute("aria-label", count + " utterances, " + labels[one] + " has fewer errors than " + labels[other]);
            cell.replaceChildren(open);
        });
    });
})();
