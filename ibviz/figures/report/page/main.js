// Entry point.

function show(index) {
  state.comparison = index;
  const choice = root.getElementById("comparison");
  if (choice) choice.value = index;
  for (const section of ["results", "protocol"]) {
    root.querySelectorAll(`#${section} .comparison`).forEach((one, at) => { one.hidden = at !== index; });
  }
  startCurves();
  startGallery();
  startDrill();
  startExplorer();
}

function startTheme() {
  const button = root.getElementById("theme");
  const dark = () => (document.documentElement.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light page" : "Dark page"; };
  button.addEventListener("click", () => {
    document.documentElement.style.colorScheme = dark() ? "light" : "dark";
    label();
  });
  button.hidden = false;
  label();
}

function startComparisons() {
  const choice = root.getElementById("comparison");
  if (!choice) return;
  root.getElementById("choice").hidden = false;
  choice.addEventListener("change", () => show(Number(choice.value)));
}

explorer.open = openPicture;
startTheme();
startTables();
listenGallery();
listenDrill();
startComparisons();
show(0);
followLink();
addEventListener("hashchange", followLink);
addEventListener("beforeprint", () => root.querySelectorAll("details").forEach((one) => { one.open = true; }));
