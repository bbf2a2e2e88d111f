"""How one number of one map came to be: input patch times kernel, summed; and back to the weight gradient."""

import convscope as cs

network = cs.load("demo")
cat = cs.load_images("demo")[:1]

view = network.view("convolution", "stem.convolution:5:30,40", images=cat)
bias = view["bias"].sum() if "bias" in view.arrays else 0.0
print("sum per input channel:", view["channel_sum"])
print("their sum and the bias:", view["channel_sum"].sum() + bias, "is the value:", view["result"][0])
view.save("step_by_step.svg")
