// Runs before the first paint, so that a chosen theme never flashes in the other one's colors.
(function () {
  var chosen = /[#&]theme=(light|dark)/.exec(location.hash);
  var kept = null;
  try {
    kept = localStorage.getItem("convscope.theme");
  } catch {
    // Storage can be switched off; the system's theme is the answer then.
  }
  var theme = chosen ? chosen[1] : kept;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
