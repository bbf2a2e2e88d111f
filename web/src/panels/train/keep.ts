// Something made on the page, as a file.

export function keep(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser needs it until it has begun to read.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** All canvases of an element as they lie in it, in one picture. */
export function pictureOf(element: HTMLElement | null | undefined, density: number): Promise<Blob | null> {
  const canvases = [...(element?.querySelectorAll("canvas") ?? [])].filter((canvas) => canvas.width > 1 && canvas.height > 1);
  const boxes = canvases.map((canvas) => canvas.getBoundingClientRect());
  const whole = document.createElement("canvas");
  const left = Math.min(...boxes.map((box) => box.left));
  const top = Math.min(...boxes.map((box) => box.top));
  const context = whole.getContext("2d");
  if (!canvases.length || !context) return Promise.resolve(null);
  whole.width = Math.ceil((Math.max(...boxes.map((box) => box.right)) - left) * density);
  whole.height = Math.ceil((Math.max(...boxes.map((box) => box.bottom)) - top) * density);
  context.imageSmoothingEnabled = false;
  canvases.forEach((canvas, index) => {
    const box = boxes[index];
    context.drawImage(canvas, (box.left - left) * density, (box.top - top) * density, box.width * density, box.height * density);
  });
  return new Promise((resolve) => whole.toBlob(resolve));
}
