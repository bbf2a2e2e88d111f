// A small network and a folder of made-up photos, in classes: to be mined in a second.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { start, type Server } from "./convscope";

const FACTORY = `
import time
from pathlib import Path

import torch
from torch import nn


class Small(nn.Module):
    """Edges and colors, then mixtures of them; unit 5 of the second layer never answers."""

    def __init__(self, slow=None):
        super().__init__()
        self.slow = slow
        self.edges = nn.Conv2d(3, 8, 5, stride=2)
        self.mixtures = nn.Conv2d(8, 40, 3, padding=1)
        self.classifier = nn.Linear(40, 4)
        with torch.no_grad():
            self.mixtures.weight[5] = 0
            self.mixtures.bias[5] = -1

    def forward(self, images):
        if self.slow is not None and self.slow.exists():
            time.sleep(0.4)
        maps = self.mixtures(self.edges(images).relu()).relu()
        return self.classifier(maps.mean((2, 3)))


def small():
    torch.manual_seed(3)
    return Small()


def slow():
    torch.manual_seed(3)
    return Small(Path(__file__).with_name("slow"))
`;

const CLASSES = ["bull terrier", "fire truck", "daisy", "zebra"];
const SIDE = 64;

/** A bitmap with a square and stripes of their own colors and places: no two images are alike. */
function photo(number: number): Buffer {
  const file = Buffer.alloc(54 + 3 * SIDE * SIDE);
  file.write("BM");
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(SIDE, 18);
  file.writeInt32LE(SIDE, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  const mixed = (salt: number) => ((number + 1) * 2654435761 + salt * 40503) % 256;
  const [top, left, size] = [mixed(1) % 40, mixed(2) % 40, 8 + (mixed(3) % 16)];
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const inside = row >= top && row < top + size && column >= left && column < left + size;
      const striped = (row + (number % 3) * column) % (4 + (number % 5)) < 2;
      for (let channel = 0; channel < 3; channel++) {
        const level = inside ? mixed(10 + channel) : striped ? mixed(20 + channel) : 128 + ((row * channel + column) % 64);
        file[54 + 3 * (row * SIDE + column) + channel] = level;
      }
    }
  }
  return file;
}

export interface Unmined extends Server {
  readonly photos: string;
  /** Let the slow network be as quick as the small one from now on. */
  hurry(): void;
}

/** The command, on the factory's network (small or slow) and so many photos; a study lies in a folder of its own. */
export async function startUnmined(factory: "small" | "slow", photos: number): Promise<Unmined> {
  const folder = mkdtempSync(join(tmpdir(), "convscope-mined-"));
  writeFileSync(join(folder, "networks.py"), FACTORY);
  writeFileSync(join(folder, "slow"), "");
  for (const name of CLASSES) mkdirSync(join(folder, "photos", name), { recursive: true });
  for (let number = 0; number < photos; number++) {
    writeFileSync(join(folder, "photos", CLASSES[number % CLASSES.length], `${number}.bmp`), photo(number));
  }
  const server = await start(
    "open", `${join(folder, "networks.py")}:${factory}`, "--image-size", String(SIDE), "--weights", "random",
    "--images", join(folder, "photos"), "--study", join(folder, "study"),
  );
  return {
    ...server,
    photos: join(folder, "photos"),
    hurry: () => rmSync(join(folder, "slow"), { force: true }),
    stop: async () => {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
