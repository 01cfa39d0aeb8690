"""The model card of a bundle, for people: what it is for, what it is worth, what it was made from."""

from __future__ import annotations

from gristmill.deployment.manifest import Manifest


def card(manifest: Manifest) -> str:
    """The card as Markdown, from the manifest alone."""
    target = manifest.target
    inputs = ", ".join(f"{i.name} ({i.kind})" for i in manifest.inputs)
    asked = f"{target.name}: {', '.join(target.labels) if target.labels else target.unit or 'a number'}"
    lines = [
        f"# {_line(manifest.name)}",
        "",
        f"Predicts **{_line(asked)}** from {_line(inputs)}.",
        f"Made by gristmill {manifest.gristmill} on {manifest.created}.",
        "",
        "## What it is worth",
        "",
        *_figures(manifest),
        "",
        "## What is inside",
        "",
        *(
            f"- {m.family or 'model'}, {m.parameters:,} parameters, weight {m.weight:.2f}"
            for m in manifest.members
        ),
        "",
        "## Licences and origin",
        "",
        *([f"- {_line(str(x))}" for x in manifest.licences] or ["- trained on your own data alone"]),
        "",
        "## Before you rely on it",
        "",
        "- The figures hold for data like the training data; another camera, place or time can differ.",
        '- Below its threshold the model says "I don\'t know"; let a person decide then.',
    ]
    return "\n".join(lines) + "\n"


def _figures(manifest: Manifest) -> list[str]:
    lines = []
    for part, found in manifest.evaluation.items():
        for name, value in dict(found.get("metrics", {})).items():
            lines.append(
                f"- {name} on {part} ({found.get('n', '?')} rows): {value['value']:.4g}"
                f" (95 % interval {value['low']:.4g} to {value['high']:.4g})"
            )
    return lines or ["- not evaluated"]


def _line(text: str) -> str:
    """Text of the user's as harmless Markdown on one line."""
    return (
        " ".join("".join(c if c.isprintable() else " " for c in text).split())
        .replace("<", "&lt;")
        .replace("`", "'")
    )
