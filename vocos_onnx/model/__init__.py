"""What a model is, and how it is opened: the only subpackage that uses onnxruntime."""
