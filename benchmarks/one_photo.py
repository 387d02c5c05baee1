"""One whole program: loads a model file, classifies one photo, prints the class. `startup.py` times it.

python one_photo.py RUNTIME MODEL PHOTO THREADS

RUNTIME is "mobilenetv2", a key of `peers.PEERS`, or "numpy", which imports NumPy and does no more.
Beside a peer's model lies `recipe.json`, what the photo is to go through.
"""

import sys

runtime, model, photo, threads = sys.argv[1:]
if runtime == "numpy":
    import numpy  # noqa: F401
elif runtime == "mobilenetv2":
    import mobilenetv2

    print(mobilenetv2.load(model, int(threads)).classify(photo, top=1)[0].index)
else:
    from pathlib import Path

    from peers import PEERS, Recipe

    peer = PEERS[runtime]
    image = Recipe.read(Path(model).with_name("recipe.json")).image(Path(photo))[None]
    run = peer.load(Path(model), int(threads))
    print(run(peer.prepare["float32"](image)).argmax())
