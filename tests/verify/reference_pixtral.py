"""What transformers and mistral-common make of tiny-pixtral in Hugging Face's layout; a separate program.

    python -I reference_pixtral.py FOLDER PROMPTS.npz TEKKEN.json CHATS.json TOKENS OUT.npz

As in reference.py, the process does not see this repository. PROMPTS has `idsN` and, for each of their images,
`pixelsN_M` (3, H, W); OUT has `logitsN`, `greedyN` and `gapN` of each, as reference.py has. CHATS is a list of lists of
[question, [paths of images]]; OUT has `chatN` (ids) and `imageN_M` (pixels) from mistral-common. float32, eager, one
thread.
"""

import json
import sys

import numpy as np
import torch
from mistral_common.protocol.instruct.chunk import ImageURLChunk, TextChunk
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import LlavaForConditionalGeneration


def see(model, ids: list[int], images: list[np.ndarray], tokens: int) -> tuple[np.ndarray, list[int], list[float]]:
    """Logits of a prompt with images, which may differ in size; then the argmax token again and again."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    largest = sizes.max(dim=0).values.tolist()
    pixels = torch.zeros(len(images), 3, *largest)
    for place, image in zip(pixels, images):
        place[:, : image.shape[1], : image.shape[2]] = torch.from_numpy(image)
    step = model(torch.tensor([ids]), pixel_values=pixels, image_sizes=sizes, use_cache=True)
    logits, chosen, gaps = step.logits[0].numpy().copy(), [], []
    for _ in range(tokens):
        best = step.logits[0, -1].topk(2)
        chosen.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        step = model(torch.tensor([chosen[-1:]]), past_key_values=step.past_key_values, use_cache=True)
    return logits, chosen, gaps


def chat(tokenizer: MistralTokenizer, question: str, paths: list[str]):
    """The ids and the pixels of a question after some images."""
    chunks = [*(ImageURLChunk(image_url=f"file://{path}") for path in paths), TextChunk(text=question)]
    return tokenizer.encode_chat_completion(ChatCompletionRequest(messages=[UserMessage(content=chunks)]))


def main(folder: str, prompts: str, tekken: str, chats: str, tokens: str, out: str) -> None:
    torch.set_num_threads(1)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32,
                                                          attn_implementation="eager").eval()
    results, given = {}, np.load(prompts)
    with torch.inference_mode():
        for n in range(sum(name.startswith("ids") for name in given.files)):
            images = [given[name] for name in sorted(given.files) if name.startswith(f"pixels{n}_")]
            results[f"logits{n}"], results[f"greedy{n}"], results[f"gap{n}"] = see(
                model, given[f"ids{n}"].tolist(), images, int(tokens))
    tokenizer = MistralTokenizer.from_file(tekken)
    with open(chats, encoding="utf-8") as file:
        for n, (question, paths) in enumerate(json.load(file)):
            encoded = chat(tokenizer, question, paths)
            results[f"chat{n}"] = encoded.tokens
            results |= {f"image{n}_{m}": np.asarray(image, np.float32) for m, image in enumerate(encoded.images)}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
