"""What one writes in a quarter of an hour: FastAPI around sentence-transformers, one call of the model per request.

plain.py FOLDER PORT THREADS
"""

import base64
import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

folder, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = SentenceTransformer(folder, device="cpu")
app = FastAPI()


class Request(BaseModel):
    input: str | list[str]
    model: str
    encoding_format: str = "float"


@app.get("/v1/models")
def models():
    return {"object": "list", "data": [{"id": "plain", "object": "model"}]}


# Not `async`: FastAPI runs it on a thread of its pool, so that requests do not wait for each other's JSON.
@app.post("/v1/embeddings")
def embeddings(request: Request):
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
    if request.encoding_format == "base64":
        vectors = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        vectors = vectors.tolist()
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": request.model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
