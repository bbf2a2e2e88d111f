"""What does a trained network's first layer look for, and what do the kernels deeper in look like?

Writes three pictures into the current folder. The network is the embedded one; any other works the same way:
`cs.load("torchvision:resnet18")`, or `cs.Network.from_module(your_module, image_size=64)`.
"""

from __future__ import annotations

import convscope as cs


def main() -> None:
    network = cs.load("demo")
    print(network)

    # Every call of the forward pass has an address; those with a kernel are convolutions and linear layers.
    with_kernels = [layer for layer in network.layers if layer.kernel is not None]
    print(f"{len(network.layers)} calls, {len(with_kernels)} of them with a kernel, for example:")
    for layer in with_kernels[:3]:
        field = layer.receptive_field
        if field.rows and field.columns:
            print(f"  {layer.address}: {layer.units} units, receptive field {field.rows.size} × {field.columns.size}")

    # The first layer reads the image itself, so its kernels can be seen in color.
    first = network.view("weights", "stem.convolution")
    first.save("stem.png")
    print(first.meta["caption"])

    # Kernels deeper in have one slice per input channel (here of one number each: it is a 1 × 1 convolution). Whoever
    # shows only the first three shows an arbitrary choice; here they come by descending norm, each with its channel.
    deeper = network.view("weights", "blocks.1.expand:7")
    deeper.save("expand-7.png")
    print(f"{deeper.meta['caption']} Input channels by norm: {deeper.arrays['channel'][0, :5].tolist()} …")

    # A depthwise layer has a single slice per unit, each reading one channel of its own.
    depthwise = network.view("weights", "blocks.1.depthwise")
    depthwise.save("depthwise.png")
    norms = depthwise["norm"]
    print(f"blocks.1.depthwise: norms from {norms.min():.3g} to {norms.max():.3g}; strongest unit {norms.argmax()}")


if __name__ == "__main__":
    main()
