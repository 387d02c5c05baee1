"""A whole program that loads a model file, classifies one image and prints the index of its class.
`startup.py` times it.

python one_photo.py RUNTIME MODEL IMAGE THREADS PRECISION

RUNTIME is "mobilenetv2", a key of `peers.PEERS`, or "numpy", which only imports NumPy. PRECISION is
"float32" or "int8". Next to a peer's model lies `recipe.json`, which says how the image is prepared.
"""

import sys

runtime, model, image, threads, precision = sys.argv[1:]
if runtime == "numpy":
    import numpy  # noqa: F401
elif runtime == "mobilenetv2":
    import mobilenetv2

    print(mobilenetv2.load(model, int(threads)).classify(image, top=1)[0].index)
else:
    from pathlib import Path

    from peers import PEERS, Recipe

    peer = PEERS[runtime]
    recipe = Recipe.read(Path(model).with_name("recipe.json"))
    values = (recipe.pixels if precision == "int8" else recipe.normalized)(Path(image))[None]
    run = peer.load(Path(model), int(threads))
    print(run(peer.prepare[precision](values)).argmax())
