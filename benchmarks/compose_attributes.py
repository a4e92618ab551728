"""The share of composed pictures of a labelled data set that satisfy an expression, as judged by a classifier.

    vpfb train --data ./faces64 --conditional --time-budget 20m --out runs/faces
    python benchmarks/compose_attributes.py -m runs/faces --data ./faces64 "female & old" "male & young" "female & ~old"

The classifier is that of `vpfb eval --fit-features`, trained on nine tenths of the data. It judges pictures that are
composed by the flow alone, with MALA and with sequential Monte Carlo, direct samples of the conditional model without
and with guidance, real pictures that satisfy the expression, which are an upper bound, and unconditional samples. The
image shows eight samples per expression, with MALA and with guidance. --ways draws in some of these ways only.
"""

from __future__ import annotations

import argparse

import torch
from compose import SHOWN, WAYS, evaluate, holds, judged, sampling_options, shown
from record import folder, parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.data.catalogue import identity
from vpfb_core.data.image_statistics import to_bytes
from vpfb_core.uses import pictures
from vpfb_core.uses.composition import parse
from vpfb_core.uses.evaluation import classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("expressions", nargs="+")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--name", help="name of the files of results; by default that of the data")
    sampling_options(parser, n=64, batch_size=64)
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device=arguments.device)
    channels, size, _ = model.shape
    images = vpfb.data.load(
        arguments.data, size=size, channels=channels, conditional=True, root=arguments.data_root, download=False
    )
    if images.groups != model.groups:
        parser.error(f"{arguments.data} does not have the classes of {arguments.model}")
    key = identity(arguments.data)
    path = classifier.find(key, images.shape)
    judge = classifier.load(path, model.device) if path else classifier.fit(images, key, model.device)

    @torch.no_grad()
    def read(seen: Tensor) -> Tensor:
        logits = judge.network(to_bytes(seen).to(model.device))
        return torch.stack([logit.argmax(1) for logit in logits], 1).cpu()

    anything = read(model.sample(max(256, arguments.n), arguments.seed).images)
    _, held_out = vpfb.data.split(images, classifier.HELD_OUT, 0)
    real = images.subset(held_out)
    assert real.labels is not None
    results, rows, grids = [], [], []
    for text in arguments.expressions:
        expression = parse(text)
        figures, drawn = evaluate(model, text, read, arguments)
        members = real.images[holds(expression, real.labels, model.groups)]
        figures["real"] = judged(expression, read(members.float() / 255), model.groups)
        figures["anything"] = judged(expression, anything, model.groups)
        results.append({"expression": text, **figures})
        rows.append([text, *(shown(figures[way]) for way in ("real", "anything", *arguments.ways))])
        grids += [drawn[way][:SHOWN] for way in arguments.ways if way in ("mala", "guided")] or [
            drawn[arguments.ways[0]][:SHOWN]
        ]
    show(["expression", "real", "unconditional", *(WAYS[way] for way in arguments.ways)], rows)
    print(f"the classifier is right on {judge.accuracy:.1%} of the labels of {judge.held_out} held-out pictures")
    name = f"compose-{arguments.name or images.name.rsplit('/', 1)[-1]}"
    grid = pictures.tile(torch.cat(grids), columns=min(SHOWN, arguments.n))
    (folder(model.device) / f"{name}.png").write_bytes(pictures.png(grid))
    record(name, {"results": results, "classifier": judge.accuracy, "model": training(model)}, model.device)


if __name__ == "__main__":
    main()
