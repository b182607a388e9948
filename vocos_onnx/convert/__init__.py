"""Checkpoints to model files, without torch and onnx: weights are filled into graphs that were traced before."""
