"""The generated parts of tutorial/reference/served_models.md: the faults, the templates, and what was recorded."""

from tiny.tools.markdown import table
from tiny.tools.memory import amount
from tiny.tools.verify.server.faults import kinds
from tiny.tools.verify.server.reference.cost import duration
from tiny.tools.verify.server.templates import OF_V1, OF_V3, PLAIN
from tutorial.pages.records import provenance

STATUS = {"0": "healthy", "1": "faulty", "2": "nothing can be told"}


def faults_block() -> str:
    """Every kind of fault: what it is called, where its difference shows, and where people met it."""
    rows = [[plain(kind["name"]), plain(kind["sentence"]), kind["shape"], ", ".join(kind["reports"])]
            for kind in kinds().values()]
    return table(["called", "what such a server does", "where it shows", "met in"], rows)


def plain(text: str) -> str:
    """A text of the list of faults, with N for its number and P for its place."""
    return text.format(value="N", place="P")


def repairs_block() -> str:
    """How each fault is repaired, by engine."""
    rows = [[plain(kind["name"]), f"any engine: {how}" if engine == "any" else f"{engine}: {how}"]
            for kind in kinds().values() for engine, how in kind["repair"].items()]
    return table(["fault", "repair"], rows)


def templates_block() -> str:
    """The templates that are known beside the model's own."""
    lists = (("Mixtral's tokenizer", OF_V1 + PLAIN), ("Pixtral's tokenizer", OF_V3 + PLAIN))
    return "\n".join(f"* {name}, {len(known)}: {'; '.join(one.name for one in known)}." for name, known in lists)


def servers_block(entry: dict) -> str:
    """What real servers got, one row a server."""
    rows = []
    for row in entry["rows"]:
        engine, what = row["what"].split(" | ")
        status, words = row["value"].split(" | ")
        rows.append([engine, what, STATUS[status], words])
    return f"{provenance(entry)}.\n\n{table(['server', 'what it served', 'verdict', 'in words'], rows)}"


def cost_block(entry: dict) -> str:
    """What it costs: measured on a model of 0.8 billion parameters, computed for Mixtral."""
    one = entry["measured"]
    text = (f"{provenance(entry)}. A random Mixtral of {one['parameters'] / 1e9:.1f} billion parameters, two texts of "
            f"400 tokens, one thread: a pass over both takes {one['seconds']:.0f} s of a processor. The command makes "
            f"{one['passes']} passes for {one['runs']} runs of the texts, about "
            f"{duration(one['seconds'] * one['runs'])} in all. At the same speed Mixtral 8x7B takes:")
    rows = [[row["mode"], f"{row['passes']}", duration(row["seconds"]), amount(row["memory"]), amount(row["read"])]
            for row in entry["computed"]]
    return f"{text}\n\n" + table(["weights", "passes", "time of one thread", "memory", "read from the files"], rows)
