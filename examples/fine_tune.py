"""Fine-tunes the bundled codec's decoder on your own recordings; its tokens keep their meaning.

    pip install "vocos-onnx[cpu,train]"           # with torch; the CPU build is enough to try it
    python fine_tune.py recordings/ held-back/ run/ [steps]

The run can be stopped and restarted. At the end it writes run/fine-tuned.onnx, which decodes the same tokens.
"""

import sys
from pathlib import Path

from vocos_onnx import VocosONNX, demo_tokens, save_audio
from vocos_onnx_train.trainer import train


def main(recordings: str, held_back: str, run: str, steps: int = 5_000) -> None:
    Path(run).mkdir(parents=True, exist_ok=True)
    tuned = Path(run, "fine-tuned.onnx")
    train(
        "bundled-codec-5",
        run,
        train=recordings,
        valid=held_back,
        steps=steps,
        encoder="vocos-codec-24khz-encoder",  # frozen: only the decoder is trained
        checkpoint="vocos-codec-24khz",  # the weights that it starts from
        model=tuned,
    )
    vocos = VocosONNX(tuned)
    save_audio(Path(run, "demo.wav"), vocos.decode(demo_tokens()), vocos.sample_rate, overwrite=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:4], *map(int, sys.argv[4:5]))
