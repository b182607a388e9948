#!/usr/bin/env bash
# Trains the bundled models again and makes the figures of models/README.md: train/bundled.sh DATA CLIPS OUT [ARGUMENTS]
# DATA has an index.csv (file, split, speaker) and 24 kHz audio, CLIPS an index.csv and recordings of any rate. ARGUMENTS
# are of every vocos-onnx train, such as --steps 2 to try it.
set -euo pipefail
configs=$(dirname "$0")/vocos_onnx_train/configs
data=$1 clips=$2 out=$3
more=("${@:4}")
mkdir -p "$out/models"
stage() { # NAME CONFIG ARGUMENTS...
  local name=$1 config=$2
  shift 2
  vocos-onnx train "$configs/$config" --train "$data/index.csv" --valid "$data/index.csv" --out "$out/$name" "$@" ${more[@]+"${more[@]}"}
}
stage codec-1 bundled-codec-1.yaml
stage codec-2 bundled-codec-2.yaml --init-from "$out/codec-1/checkpoint"
stage codec-3 bundled-codec-3.yaml --init-from "$out/codec-2/checkpoint"
stage codec bundled-codec-4.yaml --init-from "$out/codec-3/checkpoint" --export "$out/models/vocos-codec-24khz.onnx"
stage mel bundled-mel.yaml --export "$out/models/vocos-mel-24khz-small.onnx"
python -m vocos_onnx.evaluate.card --models "$out/models" --clips "$clips" --tokens "$out/models" \
  --clip speech_en_m_joe_48k_stereo.flac --clip speech_it_f_paola_48k.flac --clip speech_ja_css10_22k.flac
