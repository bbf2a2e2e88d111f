// What the image page's columns, stages and findings are called; the words themselves are in the catalogue.

import type { Session } from "../../api/schema";
import { classOf } from "../../state/attribution";
import { t, tOr } from "../../strings";
import { className } from "../words";

/** "zebra", "loss · zebra", "loss", "this unit" */
export function columnText(session: Session | null, column: string, unit: string): string {
  const number = classOf(column);
  if (column === "unit") return unit || t("image.column.unit");
  if (number !== null) {
    const name = className(session, number);
    return column.startsWith("loss") ? t("image.column.lossClass", { name }) : name;
  }
  return tOr(`image.column.${column.replace(":", ".")}`, column);
}

/** Short names for narrow places; the method's own title elsewhere. */
export const methodText = (name: string, title: string): string => tOr(`method.${name}`, title);

/** What each curve or check is called; its own name where the catalogue has none. */
export const curveText = (name: string): string => tOr(`check.curve.${name}`, name);
