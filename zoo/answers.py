"""What a model says of images, wherever the model is, for people to read."""


def show(images, answers, classes):
    """Print a line an image: `answers` are its [(label, probability), ...], likeliest first."""
    from rich.console import Console
    from rich.table import Table

    table = Table("image", "label", "probability", f"then, of {classes}", box=None)
    table.columns[2].justify = "right"
    table.columns[0].no_wrap = True
    for image, ((label, probability), *others) in zip(images, answers, strict=True):
        rest = ", ".join(f"{other} {_percent(share)}" for other, share in others)
        table.add_row(str(image), label, _percent(probability), rest)
    # On a narrow terminal a long line breaks; a folded column of paths could not be read at all.
    Console(width=max(Console().width, 140)).print(table)


def reason(message):
    """Of an error of TensorFlow's, the line for people: the one before that naming the node."""
    lines = message.partition("\n\t [[")[0].splitlines()
    return lines[-1] if lines else message


def _percent(share):
    return f"{100 * share:.2f} %"
