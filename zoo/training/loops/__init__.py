"""The loops that a training can run in, all with the signature of Keras' `fit`."""
