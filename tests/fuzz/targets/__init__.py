"""All targets, by name."""

from tests.fuzz.engine import Target
from tests.fuzz.targets import arrays, models, pictures, programs, words

TARGETS: dict[str, Target] = {target.name: target for module in (models, words, pictures, arrays, programs)
                              for target in module.TARGETS}
