"""The HTTP service of ``vocos-onnx serve``. Needs the extra [serve]; ``service.run`` starts it, ``app`` has its routes."""
