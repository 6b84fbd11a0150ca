"""Pixtral: the language model with eyes. Patches, through the encoder and the adapter, take the rows of [IMG] tokens.

[IMG_BREAK] ends each row of patches and [IMG_END] the image: ordinary tokens of the vocabulary, from which the decoder
reads the shape of the image. Read `chat_v3.py` next.
"""

from typing import Any

import numpy as np

from tiny.config import Config, Images, TinyError, VisionConfig
from tiny.decoder import ForwardPass
from tiny.image import preprocess
from tiny.kv_cache import KVCache
from tiny.mixtral import Mixtral, check_list
from tiny.patch_embed import grid_of
from tiny.vision import vision_encoder


class Pixtral(Mixtral):
    """A decoder that also takes images: preprocessed arrays (3, H, W), PIL images, or paths.

    Source:  arXiv:2410.07073; mistral-inference transformer.py, embed_vision_language_features
    """

    def embed(self, ids: np.ndarray, images: Images, run: ForwardPass) -> np.ndarray:
        """Look up one vector per token; the rows of [IMG] get the patches of the images, in order.

        Shapes:  ids (T,), images n x (3, height, width) -> (T, D)
        """
        # (1) every token as text: the breaks and ends of images stay so
        x = super().embed(ids, (), run)
        if len(images):
            # (2) patches as tokens
            features = self.encode(images, run)
            # (3) one row of [IMG] for each
            x = run.ops.splice(x, ids, features, vision_of(self.config).image_token_id)
        return x

    def encode(self, images: Images, run: ForwardPass) -> np.ndarray:
        """The vectors of [IMG] tokens: patches, through the encoder and the adapter.

        Shapes:  images n x (3, height, width) -> (N, D), N = patches, or those of this pass if there are several
        """
        if isinstance(images, ImageRows):
            return self.take(images, run)
        features = vision_encoder(images, self.weights, vision_of(self.config), run)
        features = run.ops.adapter(features, self.weights, run.precision)
        run.keep("projector", features)
        return features

    def look(self, ids: np.ndarray, images: Images) -> "ImageRows":
        """Check the images of prompts that are read in several passes; return what every pass takes as its images.

        Shapes:  ids (T,), of all prompts
        """
        rows = ImageRows(self.check_images(ids, check_list(images)))
        rows.unread = int(np.count_nonzero(ids == vision_of(self.config).image_token_id)) if rows else 0
        return rows

    def take(self, images: "ImageRows", run: ForwardPass) -> np.ndarray:
        """The rows that this pass takes of images, which are encoded one at a time. Shapes:  -> (N, D), N = rows."""
        taken: list[Any] = []
        images.unread -= images.wanted
        while images.wanted:
            # (1) an image is encoded when its first row is wanted
            if not len(images.left):
                images.left = self.encode(images[images.encoded : images.encoded + 1], run)
                images.encoded += 1
            # (2) what the pass does not take waits for the next one
            taken.append(images.left[: images.wanted])
            images.left = images.left[images.wanted :]
            images.wanted -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def check_images(self, ids: np.ndarray, images: Images, cache: KVCache | None = None) -> Images:
        """Preprocess the images and check them against the [IMG] tokens: same number of rows, same widths, same order.

        While generating, one token follows those in the cache: an [IMG] there is a word that the model wrote itself.

        Raises:  TinyError for an image of the wrong shape, one too many or too few, or one in another's place
        """
        vision = vision_of(self.config)
        if isinstance(images, ImageRows):
            images.wanted = int(np.count_nonzero(ids == vision.image_token_id))
            if images.wanted > images.unread:
                raise TinyError(f"A pass has {images.wanted} [IMG] tokens, the images have {images.unread} rows left.",
                                "Read the tokens that `look` was given, in their order, each once.")
            return images if images.wanted else []
        if cache and all(cache.lengths) and len(ids) == len(cache.lengths) and not len(images):
            return []
        pixels = [image if isinstance(image, np.ndarray) else
                  preprocess(image, vision.patch_size, vision.max_image_size) for image in images]
        for number, image in enumerate(pixels, 1):
            check_pixels(image, number, vision)
        grids = [grid_of(image, vision.patch_size) for image in pixels]
        needed = [columns for columns, rows in grids for _ in range(rows)]
        found, followers = find_runs(ids, vision.image_token_id)
        what = ", ".join(f"{columns} x {rows}" for columns, rows in grids) or "none"
        if sum(found) != sum(needed):
            raise TinyError(f"The prompt has {sum(found)} [IMG] tokens in {len(found)} rows; the images have "
                            f"{sum(needed)} patches ({what}).",
                            "Give the images of this prompt, each once, in the order of encode_chat.")
        last = np.array([row == rows - 1 for _, rows in grids for row in range(rows)], bool)
        # We do not know the ids of [IMG_BREAK] and [IMG_END]. But they differ, so no id may follow both an inner row
        # and a last row.
        if found != needed or set(followers[last]) & set(followers[~last]):
            raise TinyError(f"The rows of [IMG] tokens are not those of the images: {what}, in this order.",
                            "Give the images in the order of their [IMG] tokens, which has [IMG_BREAK] after each row "
                            "and [IMG_END] after the last one.")
        return [np.asarray(image, np.float32) for image in pixels]


class ImageRows(tuple):
    """The images of prompts that are read in several passes, and how far they have been read."""

    unread = 0  # rows that no pass has taken yet
    wanted = 0  # of these the ones that the next pass takes
    encoded = 0  # images
    left: Any = ()  # rows of the last image that wait for the next pass


def find_runs(ids: np.ndarray, token: int) -> tuple[list[int], np.ndarray]:
    """The lengths of the runs of a token, and which token follows each run, or -1.

    Shapes:  ids (T,) -> n numbers, (n,) int
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ids == token, [False]])))
    return (edges[1::2] - edges[0::2]).tolist(), np.append(ids, -1)[edges[1::2]]


def vision_of(config: Config) -> VisionConfig:
    """The sizes of the encoder. Raises ValueError for the configuration of a text model."""
    if config.vision is None:
        raise ValueError("Pixtral expects a configuration with a vision encoder; use Mixtral for a text model.")
    return config.vision


def check_pixels(image: np.ndarray, number: int, vision: VisionConfig) -> None:
    """Raise TinyError unless an array is a preprocessed image. Shapes:  (3, height, width), multiples of a patch."""
    size, largest, shape = vision.patch_size, vision.max_image_size, image.shape
    if len(shape) != 3 or shape[0] != vision.num_channels or shape[1] % size or shape[2] % size or 0 in shape:
        raise TinyError(f"Image {number} is an array {shape} of {image.dtype}.",
                        f"Give ({vision.num_channels}, H, W), H and W multiples of {size}, as tiny.preprocess does; "
                        "or a PIL image, or a path.")
    if max(shape[1:]) > largest + size - 1:
        raise TinyError(f"Image {number} is {shape[2]} x {shape[1]} pixels; the model takes sides of {largest}.",
                        "Let tiny.preprocess shrink it.")
    if not np.issubdtype(image.dtype, np.floating) or not np.isfinite(image).all():
        raise TinyError(f"Image {number} holds {image.dtype} numbers, or some that are not finite.",
                        "Give normalised pixels in float32, as tiny.preprocess does.")
