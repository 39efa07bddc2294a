"""Training models wrap the model that ships, and perhaps one with companions.

A model that only trains another has two methods. `shipped_model()` returns the plain model that
ships. `supervised_model()` returns the `DeeplySupervised` within, or None. `DeeplySupervised` and
`Distiller` have both. Your own training model needs the first. They are methods, not properties,
because Keras saves every model that it finds in an attribute.
"""


def shipped(model):
    """Return the plain model that ships: the one that `model` trains, or `model` itself."""
    while hasattr(model, "shipped_model"):
        model = model.shipped_model()
    return model


def supervised(model):
    """Return the `DeeplySupervised` that is trained: `model`, or a Distiller's student, or None."""
    return model.supervised_model() if hasattr(model, "supervised_model") else None
