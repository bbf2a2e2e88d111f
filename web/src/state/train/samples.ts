// Finding held-out images by what they are and what they are taken for.

import type { Predicted, Samples } from "../../api/training";

const PART = 200;
const MOST_PARTS = 25;

export interface TestSource {
  test(run: string, indexes: readonly number[], signal?: AbortSignal): Promise<Samples>;
}

/** The first `most` held-out images of class `truth` that are taken for `predicted`, asked for some at a time. */
export async function findSamples(source: TestSource, run: string, count: number, truth: number, predicted: number, most: number): Promise<Predicted[]> {
  const found: Predicted[] = [];
  for (let start = 0, part = 0; start < count && part < MOST_PARTS && found.length < most; start += PART, part++) {
    const indexes = Array.from({ length: Math.min(PART, count - start) }, (_, index) => start + index);
    const { images } = await source.test(run, indexes);
    found.push(...images.filter((image) => image.label === truth && image.top[0]?.class_index === predicted));
  }
  return found.slice(0, most);
}
