"""Trains the digit classifier: python -m train.digit_classifier --mnist DIR --minutes 60 --out FILE"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError

from stt.checkpoint import one_line, usable_device
from train.evaluation.digit_classifier import (
    DigitClassifier,
    accuracy_of,
    load_digit_classifier,
    save_digit_classifier,
    train_digit_classifier,
)
from train.flags import check_output, count, number


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded by default")
    parser.add_argument("--minutes", type=number, default=60)
    parser.add_argument("--batch", type=count, default=64)
    parser.add_argument("--lr", type=number, default=3e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the frames; choose another one to continue with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start-from", type=Path, metavar="FILE", help="weights to start from, not random ones")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    check_output("--out", args.out, parents=True)
    torch.manual_seed(args.seed)
    try:
        classifier = load_digit_classifier(args.start_from) if args.start_from else DigitClassifier()
        classifier.to(usable_device(args.device))
        accuracy_of(classifier, args.mnist, frames=1)  # finds MNIST
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SystemExit(f"digit_classifier: {one_line(error)}") from error

    def report(frames: int, minutes: float, loss: float) -> None:
        accuracy = accuracy_of(classifier, args.mnist, frames=500)
        save_digit_classifier(classifier, args.out, accuracy)
        text = f"exact on held-out frames: {in_words(accuracy)}"
        print(f"{minutes:6.1f} minutes, {frames} frames, loss {loss:.4f}, {text}", flush=True)

    frames = train_digit_classifier(classifier, args.mnist, args.minutes, args.batch, args.lr, args.seed, report)
    save_digit_classifier(classifier, args.out, {})
    classifier = load_digit_classifier(args.out, args.device)  # the weights as stored
    accuracy = accuracy_of(classifier, args.mnist)
    save_digit_classifier(classifier, args.out, accuracy)
    print(f"saved to {args.out} after {frames} frames; exact on held-out frames: {in_words(accuracy)}")


def in_words(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.1%}" for name, rate in accuracy.items())


if __name__ == "__main__":
    main()
