"""Calculate in 32 bits with a model that was trained in 16."""


def in_float32(model):
    """Return the model if all of it calculates in float32; else an uncompiled copy that does.

    The weights are the same. A processor without bfloat16 instructions is slow in 16 bits, and each
    kind of processor rounds in its own way. A model that cannot be made again from its
    configuration is returned as it is.
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
    """Return a configuration of Keras with another dtype policy in all its parts."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": policy}}
        return {key: _with_policy(value, policy) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(entry, policy) for entry in config)
    return config
