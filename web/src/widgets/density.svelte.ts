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

const families = new Map<string, string>();
const family = (token: string, otherwise: string): string => {
  const known = families.get(token) ?? (getComputedStyle(document.documentElement).getPropertyValue(token).trim() || otherwise);
  families.set(token, known);
  return known;
};

/** The families of the page, as canvas text wants them. */
export const codeFont = (): string => family("--code", "monospace");
export const wordFont = (): string => family("--words", "sans-serif");
