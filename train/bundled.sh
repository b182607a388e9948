#!/usr/bin/env bash
# Trains the bundled models again and makes the figures of models/README.md:
#     train/bundled.sh DATA VOICES CLIPS OUT [ARGUMENTS]
# DATA and VOICES each have an index.csv (file, split, speaker) and 24 kHz audio, CLIPS an index.csv and recordings of any
# rate. ARGUMENTS are of every vocos-onnx train, such as --steps 2 to try it.
set -euo pipefail
configs=$(dirname "$0")/vocos_onnx_train/configs
data=$1 voices=$2 clips=$3 out=$4
more=("${@:5}")
mkdir -p "$out/models"
stage() { # NAME CONFIG ARGUMENTS...
  local name=$1 config=$2
  shift 2
  vocos-onnx train "$configs/$config" --train "$data/index.csv" --valid "$data/index.csv" --out "$out/$name" "$@" ${more[@]+"${more[@]}"}
}
level() { # NAME MODEL.onnx ARGUMENTS...
  python -m vocos_onnx_train.level "$out/$1/checkpoint" "$2" "$data/index.csv" "$voices/index.csv" "${@:3}"
}
codec=$out/models/vocos-codec-24khz.onnx
decoder=(--train "$voices/index.csv" --encoder "$out/models/vocos-codec-24khz-encoder.onnx") # its encoder stays as it is
stage codec-1 bundled-codec-1.yaml
stage codec-2 bundled-codec-2.yaml --init-from "$out/codec-1/checkpoint"
stage codec-3 bundled-codec-3.yaml --init-from "$out/codec-2/checkpoint"
stage codec-4 bundled-codec-4.yaml --init-from "$out/codec-3/checkpoint" --export "$codec"
stage codec-5 bundled-codec-5.yaml --init-from "$codec" "${decoder[@]}"
stage codec-6 bundled-codec-6.yaml --init-from "$out/codec-5/weights.safetensors" "${decoder[@]}"
stage codec-7 bundled-codec-7.yaml --init-from "$out/codec-6/weights.safetensors" "${decoder[@]}"
level codec-7 "$codec" --encoder "$out/models/vocos-codec-24khz-encoder.onnx"
stage mel-1 bundled-mel.yaml
stage mel-2 bundled-mel-2.yaml --init-from "$out/mel-1/checkpoint" --train "$voices/index.csv"
stage mel-3 bundled-mel-3.yaml --init-from "$out/mel-2/weights.safetensors" --train "$voices/index.csv"
level mel-3 "$out/models/vocos-mel-24khz-small.onnx"
python -m vocos_onnx.evaluate.card --models "$out/models" --clips "$clips" --tokens "$out/models" \
  --clip speech_en_m_joe_48k_stereo.flac --clip speech_it_f_paola_48k.flac --clip speech_ja_css10_22k.flac
