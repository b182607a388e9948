"""The HTTP service of ``vocos-onnx serve`` (extra [serve]): ``service.run`` starts it, ``app`` defines its routes."""
