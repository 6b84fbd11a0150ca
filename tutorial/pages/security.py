"""The generated parts of SECURITY.md: the limits of what is read, and the lowest versions of packages with the reason.

    python -m tutorial.pages.security            write them
    python -m tutorial.pages.security --check    exit with 1 if they are not up to date
"""


from kernels.emulator import values
from tiny.files import safetensors, tokenizer_files
from tiny.serve import ask, fields, limits, messages
from tiny.serve.explore import asked
from tiny.system import pictures, reading
from tiny.tools.markdown import fill, refresh, table
from tiny.tools.terminal import Parser, program
from tiny.tools.verify import file as verify_file
from tutorial.pages.measure import ROOT

PAGE = ROOT / "SECURITY.md"
COMMAND = "python -m tutorial.pages.security"


def limits_block() -> str:
    """What is refused because it is too large, from the constants of the readers."""
    return table(["what", "at most"], [
        [f"a picture ({', '.join(pictures.FORMATS)})", f"{pictures.MAX_PIXELS // 10**6} million pixels"],
        ["a configuration or an index, JSON", f"{reading.LARGEST_JSON >> 20} MiB"],
        ["a tokenizer file", f"{tokenizer_files.LARGEST_FILE >> 20} MiB"],
        ["the header of a safetensors file", f"{safetensors.MAX_HEADER >> 20} MiB"],
        ["a file of `verify`", f"{verify_file.MAX_BYTES >> 30} GiB unpacked"],
        ["all arrays of the emulator's command", f"{values.LARGEST >> 20} MiB"],
        ["a request to `serve`: its header, its body",
         f"{limits.HEADER_BYTES >> 10} KiB, {limits.BODY_BYTES >> 20} MiB"],
        ["the same: its texts, characters of each", f"{ask.SEQUENCES}, {fields.TEXT:,}"],
        ["the same: its pictures, bytes and pixels of each", f"{messages.IMAGES}, {messages.IMAGE_BYTES >> 20} MiB, "
         f"{messages.PIXELS // 10**6} million pixels"],
        ["a request to `explore`: its body, its pictures", f"{asked.BODY_BYTES >> 20} MiB, {asked.PICTURES}"],
        ["all pictures of a request", f"{messages.ALL_PIXELS // 10**6} million pixels"],
        ["bodies of all requests at once; connections", f"{limits.ALL_BYTES >> 20} MiB; {limits.CONNECTIONS}"],
        ["the same: seconds until header and body have come", f"{limits.PATIENCE:g} each"]])


def versions_block() -> str:
    """The packages whose lower limit has a reason, which stands behind it in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()[1:]
    parts = [line.partition("#") for line in lines if "#" in line]
    return table(["requirement", "why"], [[f"`{wanted.strip()}`", why.strip()] for wanted, _, why in parts])


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    check = parser.parse_args(argv).check
    blocks = {"limits": limits_block, "versions": versions_block}
    return refresh(PAGE, fill(PAGE.read_text(encoding="utf-8"), blocks, PAGE.name), check, COMMAND)


if __name__ == "__main__":
    program(main)
