"""Models that were trained in 16 bits, calculated in 32."""


def in_float32(model):
    """`model` itself if all of it calculates in float32; else a copy that does, not compiled.

    The weights are the same. In which precision a model was trained is the business of the machine
    that trained it: a processor without bfloat16 takes longer over it, and no two round it alike.
    A model that cannot be made again from its configuration is left as it is.
    """
    import keras  # here, since `import keras` registers layers, which need this module

    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        in_32 = _with_policy(config, "float32")
        if in_32 == config:
            return model
        copy = keras.saving.deserialize_keras_object(in_32)
    except (NotImplementedError, TypeError, ValueError):  # no get_config, or a Lambda
        return model
    copy.set_weights(model.get_weights())
    return copy


def _with_policy(config, policy):
    """A configuration, as Keras gives it, with another dtype policy wherever it has one."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": policy}}
        return {key: _with_policy(value, policy) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(entry, policy) for entry in config)
    return config
