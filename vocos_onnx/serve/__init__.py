"""The HTTP service of ``vocos-onnx serve``, of the extra [serve]: ``service.run`` starts it, ``app`` has its routes."""
