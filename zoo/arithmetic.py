"""Models that were trained in 16 bits, calculated in 32."""

import keras


def in_float32(model):
    """`model` itself if all of it calculates in float32; else a copy that does, not compiled.

    The weights are the same. In which precision a model was trained is the business of the machine
    that trained it: a processor without bfloat16 takes longer over it, and no two round it alike.
    A model that cannot be made again from its configuration is left as it is.
    """
    try:
        told = keras.saving.serialize_keras_object(model)
        told.pop("compile_config", None)
        in_32 = _with_policy(told, "float32")
        if in_32 == told:
            return model
        copy = keras.saving.deserialize_keras_object(in_32)
    except (NotImplementedError, TypeError, ValueError):  # no get_config, or a Lambda
        return model
    copy.set_weights(model.get_weights())
    return copy


def _with_policy(told, policy):
    """A configuration, as Keras gives it, with another dtype policy wherever it has one."""
    if isinstance(told, dict):
        if told.get("class_name") == "DTypePolicy":
            return {**told, "config": {**told["config"], "name": policy}}
        return {key: _with_policy(value, policy) for key, value in told.items()}
    if isinstance(told, (list, tuple)):
        return type(told)(_with_policy(each, policy) for each in told)
    return told
