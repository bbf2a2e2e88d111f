"""An ordinary training loop, and the two lines that watch it: the one with ``Monitor``, and the one that logs."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import convscope as cs

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
network = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(network.parameters(), lr=0.005)

with cs.Monitor(network, optimizer, store="runs/digits", images=(images[:8], labels[:8])) as monitor:
    for _epoch in range(2):
        for chosen in torch.randperm(1500).split(50):
            loss = cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            monitor.log(loss=loss)

# What was recorded, also while the loop runs, and from another process.
with monitor.run as run:
    first, last = run.steps("filters:0")[0], run.steps("filters:0")[-1]
    steps, losses = run.scalars()["loss"]
    print(f"{run}: {len(steps)} losses, from {losses[0]:.2f} to {losses[-1]:.2f}")
    print("recorded:", ", ".join(run.names()))
    print(f"update / weight of the first layer: {run.get(first, 'filters:0')['ratio'].mean():.4f} at step {first}, "
          f"{run.get(last, 'filters:0')['ratio'].mean():.4f} at step {last}")  # fmt: skip
    latest = run.latest("kernels:0")
    assert latest is not None
    kernels = run.get(latest, "kernels:0")
    print(f"its kernels moved by at most {abs(kernels['displacement']).max():.3f} since step {kernels.meta['since']}")
print(monitor.cost)
