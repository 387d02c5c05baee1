"""The paper's ideas as experiments: on random data, on a model, and on photos.

Modules that measure one thing and return frozen records of numbers: `spiral` (Figure 1, Theorem 1),
`linear` (lemmas 1 and 2), `manifold` (effective ranks, positive channels, Figure 7),
`interventions` (a ReLU6 on bottlenecks, fewer directions), `memory` (Section 5). `explain` runs them
all on the photos that `photos` reads. `measurements` formats the numbers, `figures` draws them with
`drawing`, `report` makes the page. These need no PyTorch; `ablations` (Figure 6) trains networks and
does.
"""
