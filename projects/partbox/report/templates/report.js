"use strict";
(function () {
  // --- tables: every heading is a button that sorts; places without a number stay at the end
  function valueOf(row, column) {
    var cell = row.children[column];
    var text = [cell.dataset.sort, cell.dataset.value, cell.textContent.trim()].find(function (one) { return one !== undefined; });
    if (text === "" || cell.classList.contains("empty")) return null;
    var number = Number(text);
    return Number.isNaN(number) ? text : number;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead button").forEach(function (button) {
      button.addEventListener("click", function () {
        var heading = button.closest("th");
        var column = Array.prototype.indexOf.call(heading.parentNode.children, heading);
        var body = table.tBodies[0];
        var rows = Array.prototype.slice.call(body.rows);
        var before = heading.getAttribute("aria-sort");
        var numbers = rows.some(function (row) { return typeof valueOf(row, column) === "number"; });
        var down = before === "none" ? numbers : before === "ascending";
        table.querySelectorAll("thead th").forEach(function (one) {
          if (one.hasAttribute("aria-sort")) one.setAttribute("aria-sort", "none");
        });
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        rows.sort(function (one, other) {
          var a = valueOf(one, column), b = valueOf(other, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return down ? compare(b, a) : compare(a, b);
        });
        rows.forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  // --- what is folded is printed, too
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    folded.forEach(function (one) { one.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (one) { one.open = false; });
  });

  // --- gallery
  var gallery = document.getElementById("gallery");
  if (!gallery) return;
  // examples at a time: all of them are a very long page, on a phone above all
  var PAGE = window.matchMedia("(max-width: 40rem)").matches ? 12 : 24;
  var cards = Array.prototype.slice.call(gallery.querySelectorAll(".example"));
  var filters = { class: "filter-class", verdict: "filter-verdict", perturbation: "filter-perturbation", model: "filter-model" };
  var sorting = document.getElementById("sort-gallery");
  var count = document.getElementById("gallery-count");
  var more = document.getElementById("more-gallery");
  var rest = document.getElementById("rest-gallery");
  var verdicts = ["fooled", "correct", "wrong on clean", "not judged"];
  var limit = PAGE;
  function sure(card, name) { return card.dataset[name] === "" ? null : Number(card.dataset[name]); }
  var keys = {
    image: function (card) { return card.dataset.imageId; },
    class: function (card) { return card.dataset.class || null; },
    verdict: function (card) { return verdicts.indexOf(card.dataset.verdict); },
    confident: function (card) { var value = sure(card, "confidence"); return value === null ? null : -value; },
    unsure: function (card) { return sure(card, "confidence"); }
  };
  function sorted() {
    var key = keys[sorting.value];
    var places = new Map(cards.map(function (card, place) { return [card, place]; }));
    return cards.slice().sort(function (one, other) {
      var before = places.get(one) - places.get(other);
      if (!key) return before;
      var a = key(one), b = key(other);
      if (a === null || b === null) return (a === null) - (b === null) || before;
      return compare(a, b) || before;
    });
  }
  function isWanted(card) {
    return Object.keys(filters).every(function (name) {
      var wanted = document.getElementById(filters[name]).value;
      return wanted === "" || (name === "verdict" && wanted === "all") || card.dataset[name] === wanted;
    });
  }
  // Shows the first examples that fit; returns the first of those that were not shown before.
  function update() {
    var fitting = [], fresh = null;
    sorted().forEach(function (card) {
      gallery.appendChild(card);
      if (isWanted(card)) fitting.push(card); else card.hidden = true;
    });
    fitting.forEach(function (card, place) {
      var shown = place < limit;
      if (shown && card.hidden && !fresh) fresh = card;
      card.hidden = !shown;
    });
    var left = Math.max(fitting.length - limit, 0);
    count.textContent = fitting.length + " of " + cards.length + " examples fit, " +
      (left ? "the first " + limit + " are shown" : "all of them are shown");
    more.hidden = rest.hidden = left === 0;
    more.textContent = "Show " + Math.min(PAGE, left) + " more";
    rest.textContent = "Show all " + fitting.length;
    return fresh;
  }
  function begin() { limit = PAGE; update(); }
  function extend(by) {
    limit += by;
    var fresh = update();
    if (fresh) fresh.focus(); // where reading goes on; the button may be gone
  }
  Object.keys(filters).forEach(function (name) {
    document.getElementById(filters[name]).addEventListener("change", begin);
  });
  sorting.addEventListener("change", begin);
  document.getElementById("reset-gallery").addEventListener("click", function () {
    Object.keys(filters).forEach(function (name) { document.getElementById(filters[name]).selectedIndex = 0; });
    sorting.selectedIndex = 0;
    begin();
  });
  more.addEventListener("click", function () { extend(PAGE); });
  rest.addEventListener("click", function () { extend(cards.length); });
  begin(); // a browser that goes back keeps what was chosen
})();
