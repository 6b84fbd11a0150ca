"""What mistral-common and transformers make of pictures; a separate program.

    python -I pixels_reference.py IN.npz OUT.npz

It runs in a process whose path does not hold this repository, because transformers imports a package named `kernels`
if it finds one. Picture N of IN is `N/bytes`, `N/mode`, `N/size`, `N/patch_size` and `N/max_image_size`. OUT holds
`N/mistral` and `N/hf`, float32 (3, H, W); the second is missing where the HF processor refuses the picture.
"""

import sys

import cv2
import mistral_common
import numpy as np
import PIL
import transformers
from mistral_common.protocol.instruct.chunk import ImageChunk
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil


def main(source: str, out: str) -> None:
    pictures, results = np.load(source), {}
    cv2.setNumThreads(1)
    for n in range(int(pictures["count"])):
        image = PIL.Image.frombytes(str(pictures[f"{n}/mode"]), tuple(pictures[f"{n}/size"].tolist()),
                                    pictures[f"{n}/bytes"].tobytes())
        patch_size, longest = int(pictures[f"{n}/patch_size"]), int(pictures[f"{n}/max_image_size"])
        encoder = ImageEncoder(ImageConfig(patch_size, longest), SpecialImageIDs(10, 12, 13))
        results[f"{n}/mistral"] = encoder(ImageChunk(image=image)).image
        processor = PixtralImageProcessorPil(patch_size={"height": patch_size, "width": patch_size},
                                             size={"longest_edge": longest})
        try:
            results[f"{n}/hf"] = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        except ValueError as error:  # It resizes to nothing.
            assert "Size must contain" in str(error)
    versions = {"mistral-common": mistral_common, "opencv": cv2, "pillow": PIL, "transformers": transformers}
    np.savez(out, versions=[f"{name} {module.__version__}" for name, module in versions.items()], **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
