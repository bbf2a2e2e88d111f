// Numbers as people read them: three significant digits, a true minus, an exponent where one is needed. Never "0.000".

const MINUS = "\u2212";

const trueMinus = (text: string): string => text.replaceAll("-", MINUS);

/** 371.7 -> 372, 0.01234 -> 0.0123, 1.234e-7 -> 1.23e−7; NaN and infinities by name. */
export function formatNumber(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : `${MINUS}Inf`;
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  if (magnitude >= 1e5 || magnitude < 1e-3) {
    if (Number.isInteger(value) && magnitude < 1e7) return formatCount(value);
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    return trueMinus(`${mantissa}e${Number(exponent)}`);
  }
  const precise = Number(value.toPrecision(digits));
  if (Math.abs(precise) >= 10 ** digits) return trueMinus(String(Math.round(value)));
  return trueMinus(precise.toPrecision(digits).includes("e") ? String(precise) : precise.toPrecision(digits));
}

/** Every digit that float32 carries, for tooltips and tables. */
export function formatExact(value: number): string {
  return Number.isFinite(value) ? trueMinus(String(Number(value.toPrecision(8)))) : formatNumber(value);
}

/** 14208 -> 14,208 */
export function formatCount(value: number): string {
  return trueMinus(value.toLocaleString("en-US"));
}

/** 1248424 -> 1.25 M */
export function formatLarge(value: number): string {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]] as const) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${letter}`;
  }
  return String(value);
}

/** What fits a cell of 28 px: at most five characters. */
export function formatCell(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : `${MINUS}Inf`;
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  if (magnitude >= 1e4 || magnitude < 1e-2) return trueMinus(value.toExponential(0).replace("e+", "e"));
  const text = magnitude >= 100 ? String(Math.round(value)) : Number(value.toPrecision(2)).toString();
  return trueMinus(text.replace(/^(-?)0\./, "$1."));
}

/** 1 -> 1st, 12 -> 12th */
export function ordinal(value: number): string {
  const tens = value % 100;
  if (tens >= 11 && tens <= 13) return `${formatCount(value)}th`;
  return `${formatCount(value)}${["th", "st", "nd", "rd"][value % 10] ?? "th"}`;
}

/** 95 -> 1 min 35 s */
export function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
