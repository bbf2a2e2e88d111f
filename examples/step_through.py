"""How one number in a feature map came to be, and how every position pulls at the weights behind it.

Forward: patch × kernel, summed per channel, plus bias. Backward: every position's upstream gradient times its patch,
summed over the map, because all positions share the kernel.
"""

from __future__ import annotations

import numpy as np

import convscope as cs


def main() -> None:
    network = cs.load("demo")
    photo = cs.load_images("demo")[:1]
    layer, channel = "stem.convolution", 4

    # Where does this unit answer most strongly?
    maps = network.view("activations", f"{layer}:{channel}", images=photo)
    row, column = maps["place"][0, 0].tolist()
    neuron = f"{layer}:{channel}:{row},{column}"
    box = network.receptive_field(neuron)
    print(
        f"{neuron} sees {box.rows} × {box.columns} pixels of {photo[0].name}, from row {box.row}, column {box.column}"
    )

    step = network.view("convolution", neuron, images=photo, objective="score")
    patch, kernel, product = step["patch"], step["kernel"], step["product"]
    assert np.allclose(patch * kernel, product, atol=1e-6)

    # One sum per input channel; their total, and the bias where there is one, are the number in the map.
    terms = [*step["channel_sum"], *(step["bias"] if "bias" in step.arrays else ())]
    result = float(step["result"][0])
    print(" + ".join(f"({value:.4f})" for value in terms), f"= {result:.4f}")
    assert np.isclose(sum(terms), result, atol=1e-5)
    assert np.isclose(result, maps["map"][0, 0, row, column], atol=1e-5)

    # The way back: this position's share of the kernel's gradient is its upstream gradient times its patch.
    upstream = step["upstream"]
    assert np.allclose(upstream[row, column] * patch, step["share"], atol=1e-6)
    total, share = step["weight_gradient"], step["share"]
    print(
        f"the kernel's gradient has norm {np.linalg.norm(total):.4g}; this position gives {np.linalg.norm(share):.4g}"
    )
    print(f"{np.count_nonzero(upstream)} of {upstream.size} positions pull at the same {kernel.size} weights")
    step.save("step.png")


if __name__ == "__main__":
    main()
