"""Training models wrap the model that ships, and perhaps one with companions.

A model that only trains another says so by two methods: `shipped_model()`, the plain model that
it leaves behind, and `supervised_model()`, the `DeeplySupervised` within, or None.
`DeeplySupervised` and `Distiller` have both; a training model of one's own needs the first. They
are methods and no properties, since Keras saves every model that it finds in an attribute.
"""


def shipped(model):
    """The plain model that ships: what a training model leaves behind, or `model` itself."""
    while hasattr(model, "shipped_model"):
        model = model.shipped_model()
    return model


def supervised(model):
    """The `DeeplySupervised` that is trained: `model`, or a Distiller's student; else None."""
    return model.supervised_model() if hasattr(model, "supervised_model") else None
