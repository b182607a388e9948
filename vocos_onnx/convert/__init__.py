"""Converts checkpoints to model files without torch and onnx, by filling the weights into previously traced graphs."""
