"""What are the weight gradients of a layer, and how does one get them?

A weight gradient is dLoss/dWeight: one number for every weight, saying how the loss changes with it. It has the shape
of the weights, so it can be drawn like them; training moves each weight a little against it. It isn't the gradient of
a picture (its edges): for that see the method `spatial_gradients`.
"""

from __future__ import annotations

import numpy as np

import convscope as cs


def main() -> None:
    network = cs.load("demo")
    images = cs.load_images("demo")[:4]
    layer = "stem.convolution"

    # One backward pass for the whole batch. The photos have no labels, so the network's own answers stand in.
    view = network.view("weight_gradients", layer, images=images)
    print(f"{view.meta['caption']}\n{view.meta['objective']}: {view.meta['value']:.4g}")
    view.save("stem-gradients.png")

    # Kernel and gradient lie in the same layout: [unit, slice, row, column].
    kernel, gradient = view["kernel"], view["gradient"]
    assert kernel.shape == gradient.shape

    # Sizes are only comparable relative to the weights they would change.
    ratio = np.nan_to_num(view["ratio"])
    for unit in ratio.argsort()[::-1][:3]:
        print(f"{layer}:{unit} would change most: gradient norm / weight norm = {ratio[unit]:.3g}")

    # Whose image pulls how: each image's share of the batch's gradient, adding up to 1. A negative share pulls back.
    unit = int(ratio.argmax())
    for image, share in zip(images, view["image_share"][:, unit], strict=True):
        print(f"  {image.name}: {share:+.2f}")

    # The loss of a confidently classified photo is flat. The class's score before softmax never is.
    score = network.view("weight_gradients", layer, images=images, objective="score")
    print(f"objective score: gradient norms up to {score.arrays['gradient_norm'].max():.3g}")

    # Each image's own gradient: their mean is the gradient of the batch.
    one = network.view("weight_gradients", f"{layer}:{unit}", images=images, per_image=True)
    assert np.allclose(one["image_gradient"].mean(axis=0), one["gradient"], rtol=1e-4, atol=1e-7)


if __name__ == "__main__":
    main()
