// Colors of lines in a plot: Okabe and Ito's set, told apart by color-blind eyes, dark or light enough to stand on either
// ground; and a dash for each, because color alone must not say which line is which.

import type { Theme } from "./colormap";

const LIGHT = ["#17191b", "#0072b2", "#b34700", "#00785a", "#a3487a", "#7a6400", "#1f6f8b", "#8a2f2f"] as const;
const DARK = ["#ebe9e4", "#56b4e9", "#f0954a", "#2fc79d", "#e59ac4", "#e2cf4b", "#86d3ea", "#e98b8b"] as const;
const DASHES: readonly (readonly number[])[] = [[], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [12, 4], [1, 3], [6, 2, 2, 2, 2, 2]];

export const seriesColor = (index: number, theme: Theme): string => (theme === "dark" ? DARK : LIGHT)[index % LIGHT.length];
export const seriesDash = (index: number): readonly number[] => DASHES[index % DASHES.length];
