// Loaded before anything is drawn, so that the chosen colours are there from the start. No choice: those of the system.
"use strict";
try {
  const chosen = localStorage.getItem("recollect-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is closed to this page: the colours of the system are used
}
