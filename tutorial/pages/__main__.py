"""Every generated page: `python -m tutorial.pages` writes them, `--check` exits with 1 if one is not up to date."""


from tiny.tools.terminal import Parser, program
from tutorial.pages import book_map, chapters, kernels, lists, readme, reference, security, side_by_side, syllabus


def main(argv: list[str] | None = None) -> int:
    """Write or check all pages; return the exit status."""
    parser = Parser(prog="python -m tutorial.pages", description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    check = parser.parse_args(argv).check
    pages = readme, book_map, reference, security, chapters, lists, kernels, side_by_side, syllabus
    return max(page.main(["--check"] * check) for page in pages)


if __name__ == "__main__":
    program(main)
