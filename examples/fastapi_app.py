"""A FastAPI application that turns token files into WAV.

    pip install "vocos-onnx[cpu]" fastapi uvicorn
    uvicorn fastapi_app:app
    curl --data-binary @tokens.npz http://127.0.0.1:8000/decode --output out.wav

``vocos-onnx serve`` is a complete service, with limits on what clients may use. This application has none.
"""

import asyncio
import io
from typing import Annotated

import numpy as np
from fastapi import Body, FastAPI, HTTPException, Response

from vocos_onnx import VocosONNX, load_tokens, save_audio

app = FastAPI()
vocos = VocosONNX()  # once: requests share it. For EnCodec tokens: VocosONNX("charactr/vocos-encodec-24khz")


def wav(audio: np.ndarray) -> bytes:
    if audio.ndim != 1:
        raise ValueError("the file holds a batch: send one recording at a time")
    file = io.BytesIO()
    save_audio(file, audio, vocos.sample_rate, format="wav")
    return file.getvalue()


@app.post("/decode", response_class=Response)
async def decode(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
    try:
        tokens = await asyncio.to_thread(load_tokens, io.BytesIO(body))
        data = await asyncio.to_thread(wav, await vocos.adecode(tokens))
    except ValueError as error:  # says in a sentence what is wrong with the tokens
        raise HTTPException(400, str(error)) from None
    return Response(data, media_type="audio/wav")
