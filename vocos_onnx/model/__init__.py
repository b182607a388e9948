"""What a model is, and how it is opened: the only room with onnxruntime."""
