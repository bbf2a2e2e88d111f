// Something made on the page, as a file.

export function keep(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser needs it until it has begun to read.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
