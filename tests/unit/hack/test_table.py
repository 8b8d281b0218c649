"""The table of what each framework and scheme gains."""

from hack.table import HEADS, Row, render

PERFORMANCE = {
    "engine": "llama.cpp 0.3.36",
    "processor": "A Processor",
    "threads": 2,
    "tokensPerSecond": "93.1",
    "baselineTokensPerSecond": "49.4",
    "speedup": "1.88",
    "memorySaved": "0.66",
}
QUALITY = {"perplexity": "21.5", "baselinePerplexity": "21.1", "accuracy": "0.981"}
MEASURED = {"bytes": 105_400_000, "compression": "2.55", "quality": QUALITY, "performance": PERFORMANCE}


def lines(*rows: Row, note: str = "") -> list[str]:
    return list(render(rows, note))


def test_a_row_has_what_was_measured_beside_what_is_claimed() -> None:
    row = lines(Row("llamacpp", "Q4_K_M", MEASURED))[2]
    assert row == (
        "| llamacpp | Q4_K_M | 105 MB | 2.55x | 66% | 93.1 (49.4) | 1.88x | 21.5 (21.1) | 0.981 | Q4_K_M: 2-3x |"
    )


def test_every_line_of_the_table_has_the_same_columns() -> None:
    failed = Row("mlx", "4bit", {}, "no memory")
    bare = Row("onnx", "INT8", {"bytes": 1, "compression": "1.00"})
    table = [line for line in lines(Row("llamacpp", "Q8_0", MEASURED), failed, bare) if line.startswith("|")]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {len(HEADS) + 1}


def test_what_was_not_measured_is_a_dash_and_a_failure_is_told() -> None:
    text = lines(Row("mlx", "4bit", {}, "the Job needs more memory"))
    assert "| mlx | 4bit | - | - | - | - | - | - | - |" in text[2]
    assert "- mlx 4bit failed: the Job needs more memory" in text


def test_it_says_where_it_was_measured_and_what_of() -> None:
    text = lines(Row("llamacpp", "Q4_K_M", MEASURED), Row("llamacpp", "Q8_0", MEASURED), note="dequantized")
    assert text.count("- llama.cpp 0.3.36: 2 threads on A Processor") == 1
    assert text[-1] == "- dequantized"
