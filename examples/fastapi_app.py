"""An application of your own that turns files of tokens into WAV.

    pip install "vocos-onnx[cpu]" fastapi uvicorn
    uvicorn fastapi_app:app
    curl --data-binary @tokens.npz http://127.0.0.1:8000/decode --output out.wav

``vocos-onnx serve`` is a whole service, with bounds on what its clients may take. This has none.
"""

import asyncio
import io
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException, Response

from vocos_onnx import VocosONNX, load_tokens, save_audio

app = FastAPI()
vocos = VocosONNX()  # once: it may be used by many requests at the same time


def wav(audio) -> bytes:
    file = io.BytesIO()
    save_audio(file, audio, vocos.sample_rate, format="wav")
    return file.getvalue()


@app.post("/decode", response_class=Response)
async def decode(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
    try:
        tokens = await asyncio.to_thread(load_tokens, io.BytesIO(body))
        audio = await vocos.adecode(tokens)
    except ValueError as error:  # what is wrong with the tokens, in a sentence
        raise HTTPException(400, str(error)) from None
    return Response(await asyncio.to_thread(wav, audio), media_type="audio/wav")
