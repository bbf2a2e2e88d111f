// A small network with what the embedded one lacks, written to a folder as anybody would write their own.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { start, type Server } from "./convscope";

const FACTORY = `
import torch
from torch import nn


class Branches(nn.Module):
    """Branches that see different parts, and a depthwise convolution that keeps them apart."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.middle = nn.Conv2d(8, 4, 3, padding=1)
        self.far = nn.Conv2d(8, 4, 5, padding=4, dilation=2)
        self.apart = nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12)
        self.wide = nn.Conv2d(12, 2048, 3, padding=1)
        self.uneven = nn.AdaptiveAvgPool2d((6, 3))
        self.last = nn.Conv2d(2048, 6, 1)
        self.pooled = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(6, 5)

    def forward(self, images):
        stem = self.stem(images).relu()
        together = torch.cat([self.narrow(stem), self.middle(stem), self.far(stem)], 1)
        wide = self.wide(self.apart(together))
        return self.classifier(self.pooled(self.last(self.uneven(wide))).flatten(1))


def branches():
    torch.manual_seed(0)
    return Branches()
`;

/** The command, on the factory's network and the embedded photos. */
export async function startBranches(): Promise<Server> {
  const folder = mkdtempSync(join(tmpdir(), "convscope-network-"));
  writeFileSync(join(folder, "networks.py"), FACTORY);
  const server = await start("open", `${join(folder, "networks.py")}:branches`, "--image-size", "64", "--weights", "random");
  return {
    ...server,
    stop: async () => {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
