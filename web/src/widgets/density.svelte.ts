// Device pixels per CSS pixel; changes when a window moves to another screen or the page is zoomed.

let density = $state(typeof devicePixelRatio === "number" ? devicePixelRatio : 1);

if (typeof matchMedia === "function") {
  const watch = () =>
    matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener(
      "change",
      () => {
        density = devicePixelRatio;
        watch();
      },
      { once: true },
    );
  watch();
}

export const screen = {
  get density(): number {
    return density;
  },
};

let family = "";
/** The monospace family of the page, as canvas text wants it. */
export function codeFont(): string {
  family ||= getComputedStyle(document.documentElement).getPropertyValue("--code").trim() || "monospace";
  return family;
}
