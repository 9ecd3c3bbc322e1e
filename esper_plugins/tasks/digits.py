"""The task `digits`: real handwritten digits, and a host with a block too narrow for them.

The images are scikit-learn's copy of the UCI test set "Optical Recognition of Handwritten Digits"
(1,797 images of 8 x 8 pixels, 16 grey levels), bundled with the library, so nothing is downloaded.
"""

import math

import numpy as np
from sklearn.datasets import load_digits

from esper_core.plugin import Part, Problem
from esper_plugins.tasks.classification import cross_entropy, hits
from esper_plugins.tasks.hosts import MLPShape, mlp, narrow_site
from esper_plugins.tasks.settings import Digits
from esper_plugins.tasks.splits import split

GREY_LEVELS = 16.0
CLASSES = 10


def build(settings: Digits) -> Problem:
    """Load the images, split them, and describe the host."""
    images, labels = load_digits(return_X_y=True)
    shape = MLPShape(
        inputs=images.shape[1],
        classes=CLASSES,
        width=settings.width,
        blocks=settings.blocks,
        narrow=settings.narrow,
        narrow_width=settings.narrow_width,
    )
    return Problem(
        **split(images / GREY_LEVELS, labels.astype(np.int64), settings.data_seed),
        host=Part(name="esper/mlp", build="esper_plugins.tasks.hosts:mlp", call=mlp, settings=shape),
        loss=cross_entropy,
        score=hits,
        chance=math.log(CLASSES),
        bottleneck=narrow_site,
    )
