"""All targets, by name."""

from tests.fuzz.engine import Target
from tests.fuzz.targets import answers, arrays, models, packed, pictures, programs, quantised, words

MODULES = (answers, models, packed, quantised, words, pictures, arrays, programs)
TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
