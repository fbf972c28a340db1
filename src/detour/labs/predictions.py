"""Records what the learner expects before a measurement, and compares it with the result."""

_PREDICTIONS: dict[str, str] = {}


def predict(question: str, expected: object) -> None:
    """Write down what you expect; empty text counts as nothing written.

    Args:
        question: its name in the notebook.
        expected: text or a number, in the learner's own words.
    """
    text = str(expected).strip()
    _PREDICTIONS[question] = text
    print(f"Prediction {question}: {text}" if text else _missing(question))


def compare_with(question: str, measured: object) -> None:
    """Show the prediction and what was measured, one under the other."""
    expected = _PREDICTIONS.get(question, "")
    print(f"You expected: {expected}" if expected else _missing(question))
    print(f"Measured:     {measured}")


def _missing(question: str) -> str:
    return f"Prediction {question}: nothing written yet. What surprises you is what you learn: write it down first."
