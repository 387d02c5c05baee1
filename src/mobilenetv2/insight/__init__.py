"""The paper's ideas as experiments: on its toy, on one's own model, on one's own photos.

Each module measures one thing and returns frozen records of numbers: `spiral` (Figure 1), `linear`
(ReLU where nothing is cut, lemmas 1 and 2), `manifold` (ranks and positive channels, Figure 7),
`interventions` (a ReLU6 on the bottleneck, fewer directions), `memory` (Section 5). `explain` runs
them all, `page` makes the report. NumPy alone: no extra is needed.
"""
