"""The known faults of servers that also see: what becomes of images on their way to the tokens of a prompt."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tiny.config import Config, VisionConfig
from tiny.image import MEAN, STD, preprocess
from tiny.mixtral import check_ids
from tiny.pixtral import Pixtral, find_runs, vision_of
from tiny.tools.verify.server.faults import Fault, answer, read_by, with_fault


def healthy(images: Sequence[Any], vision: VisionConfig, style: str = "mistral") -> list[np.ndarray]:
    """Images as the encoder takes them; arrays are so already. Shapes:  -> n x (3, H, W) float32."""
    return [np.asarray(image, np.float32) if isinstance(image, np.ndarray) else
            preprocess(image, vision.patch_size, vision.max_image_size, style) for image in images]


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., list[np.ndarray]]:
    """Every image changed. Shapes:  change: (3, H, W) -> same."""
    return lambda images, vision: [change(pixels) for pixels in healthy(images, vision)]


def levels(pixels: np.ndarray) -> np.ndarray:
    """Pixels as they were before they were normalised, from 0 to 1. Shapes:  (3, H, W) -> same."""
    return pixels * np.array(STD, np.float32)[:, None, None] + np.array(MEAN, np.float32)[:, None, None]


def unbroken(image_token: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Ids without the tokens that end a row of patches, but for those that end an image.

    Shapes:  (T,) -> (n,), and (T,) rows, -1 for what is left out
    """
    def read(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        followers = find_runs(ids, image_token)[1]  # the last one ends an image, so another one ends a row
        left = ~np.isin(ids, followers[followers != followers[-1]]) if len(followers) else np.ones(len(ids), bool)
        return ids[left], np.where(left, np.cumsum(left) - 1, -1)
    return read


def turned(base: ModuleType, config: Config) -> dict[str, Callable]:
    """Angles of rows for columns, and of columns for rows."""
    def rope_2d_table(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
        return base.rope_2d_table(positions[:, ::-1], head_dim, theta)
    return {"rope_2d_table": rope_2d_table}


def unmasked(base: ModuleType, config: Config) -> dict[str, Callable]:
    """Attention of all images together."""
    def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
                  spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32") -> np.ndarray:
        if not causal:
            lengths, spans = [len(q)], [(0, len(keys))]
        return base.attention(q, keys, values, lengths, spans, causal, precision)
    return {"attention": attention}


def hypotheses(config: Config, images: Sequence[Any]) -> tuple[Fault, ...]:
    """The faults that show in a prompt with these images. Whether a resize does, only pictures tell, not arrays."""
    vision = vision_of(config)
    shapes = [pixels.shape for pixels in healthy(images, vision)]
    found = [Fault("rows_and_columns", ops=turned), Fault("blind", pixels=each(np.zeros_like)),
             Fault("colours", pixels=each(lambda pixels: np.ascontiguousarray(
                 (levels(pixels)[::-1] - np.array(MEAN, np.float32)[:, None, None])
                 / np.array(STD, np.float32)[:, None, None]))),
             Fault("not_normalised", pixels=each(levels)),
             Fault("half_normalised", pixels=each(lambda pixels: 2 * levels(pixels) - 1))]
    if any(shape[1] > vision.patch_size for shape in shapes):
        found.append(Fault("no_breaks", ids=unbroken(vision.image_token_id)))
    if len(shapes) > 1:
        found += [Fault("no_mask", ops=unmasked),
                  Fault("images_swapped", pixels=lambda images, vision: healthy(images, vision)[::-1])]
        if len(set(shapes)) == 1:
            found.append(Fault("first_image", pixels=lambda images, vision: healthy(images[:1], vision) * len(images)))
    if not all(isinstance(image, np.ndarray) for image in images):
        resized = healthy(images, vision, "hf")
        # Another number of patches would show in the number of tokens, before anything is weighed.
        if [pixels.shape for pixels in resized] == shapes:
            found.append(Fault("hf_resize", pixels=lambda images, vision: healthy(images, vision, "hf")))
    return tuple(found)


def logprobs(model: Pixtral, fault: Fault | None, ids: Sequence[int] | np.ndarray,
             images: Sequence[Any] = ()) -> np.ndarray:
    """What a server with a fault says of the token after each of ids; a fault of texts will do, too.

    images: those of the prompt, in its order: PIL images or paths, or preprocessed arrays

    Shapes:  ids (T,), BOS first -> (T, V) float32 natural logarithms; NaN where such a server can say nothing
    Raises:  TinyError as the model does if the images are not those of the prompt
    """
    ids, fault, vision = check_ids(ids), fault or Fault(""), vision_of(model.config)
    checked = model.check_images(ids, images)
    pixels = fault.pixels(images, vision) if fault.pixels else checked
    read, rows = read_by(fault, ids, model.config)
    if np.count_nonzero(read == vision.image_token_id) != np.count_nonzero(ids == vision.image_token_id):
        return np.full((len(ids), model.config.vocab_size), np.nan, np.float32)  # A cut prompt has no place for them.
    # The model itself refuses tokens that are not those of the images, and that is what a fault may be.
    logits = with_fault(model, fault).forward(read, np.arange(len(read)), [len(read)], pixels, None, None, False)
    return answer(logits, read, fault, rows)
