// Every page: times that stay true, and a list of labs that is fresh when a learner comes back to it.
"use strict";

const gradlab = (() => {
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const units = [["min", 60, 60], ["h", 3600, 24], ["day", 86400, 14], ["week", 604800, Infinity]];

  function ago(then) {
    const seconds = Math.max(0, (Date.now() - then) / 1000);
    if (seconds < 45) return "just now";
    for (const [unit, size, most] of units) {
      const count = Math.max(1, Math.round(seconds / size));
      const plural = size > 3600 && count > 1 ? "s" : "";
      if (count < most) return `${count} ${unit}${plural} ago`;
    }
  }

  function showTime(element, then) {
    const date = new Date(then);
    element.dateTime = date.toISOString();
    element.title = local.format(date);
    element.textContent = ago(then);
  }

  function refreshTimes() {
    for (const element of document.querySelectorAll("time[data-ago][datetime]")) {
      showTime(element, Date.parse(element.dateTime));
    }
  }

  // As the filter of that name in the pages: `code` becomes code.
  function showProse(element, text) {
    const parts = text.split(/`([^`\n]+)`/).map((part, index) => {
      if (index % 2 === 0) return part;
      const code = document.createElement("code");
      code.textContent = part;
      return code;
    });
    element.replaceChildren(...parts);
  }

  refreshTimes();
  setInterval(refreshTimes, 20000);

  if ("refreshOnReturn" in document.body.dataset) {
    let left = 0;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) left = Date.now();
      else if (left && Date.now() - left > 2000) location.reload();
    });
  }

  // A link to one attempt opens what it holds.
  const target = location.hash.startsWith("#attempt-") ? document.getElementById(location.hash.slice(1)) : null;
  for (const details of target?.querySelectorAll("details.result") ?? []) details.open = true;

  return { showTime, showProse };
})();
