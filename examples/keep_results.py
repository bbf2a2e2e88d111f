"""Keep views in a store, and find them again without computing."""

import convscope as cs

network = cs.load("demo")
images = cs.load_images("demo")

with cs.Store.open("study") as store:
    for name in ("stem.convolution", "blocks.0.depthwise"):
        store.put(network.view("activations", name, images=images[:2]))

with cs.Store.open("study") as store:
    for entry in store.query(method="activations"):
        blob = store.get(entry.key)
        if blob is not None:
            print(entry.target, cs.View.from_bytes(blob))
