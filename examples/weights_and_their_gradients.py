"""The first layer's kernels, and how the loss wants to change them: one picture, and numbers per unit."""

import convscope as cs

network = cs.load("demo")
images = cs.load_images("demo")

view = network.view("weight_gradients", "stem.convolution", images=images[:4])
view.save("weight_gradients.png")

ratio = view["ratio"]
for unit in ratio.argsort()[::-1][:5]:
    print(f"stem.convolution:{unit}  |gradient| / |weight| = {ratio[unit]:.3g}")
