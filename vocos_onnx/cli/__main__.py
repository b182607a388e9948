"""``python -m vocos_onnx.cli``: the same program as ``python -m vocos_onnx``."""

import sys

from vocos_onnx.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
