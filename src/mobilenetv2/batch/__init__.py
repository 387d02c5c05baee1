"""Models for the workers of Ray, Spark, Dask and other programs that map batches of rows.

Each class loads its model when it is made and is then called with a batch, a dictionary of columns of
one length. It answers with a dictionary of columns of the same length: the columns that came in,
without the images themselves, the columns of the answer, and `error`, which is empty where all is
well. An image that cannot be read is a row with an error, never an exception.
"""

from __future__ import annotations

from .mappers import Classifier as Classifier
from .mappers import Detector as Detector
from .mappers import Features as Features
from .mappers import Segmenter as Segmenter

__all__ = ["Classifier", "Detector", "Features", "Segmenter"]
