"""The paper's ideas as experiments: on random data, on a model, and on photos.

Modules that measure, and return frozen records of numbers: `theory` (Figure 1, Theorem 1, both
lemmas), `manifold` (effective ranks, positive channels, Figure 7), `interventions` (a ReLU6 on
bottlenecks, fewer directions), `memory` (Section 5). `explain` runs them all on the photos that
`photos` reads. `measurements` formats the numbers, `figures` draws them with `drawing`, `report`
makes the page. None of these needs PyTorch; `ablations` (Figure 6) trains networks and does.
"""
