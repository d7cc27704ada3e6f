"""manifest: vouch for a dataset, or look whether it is what somebody vouched for."""

import argparse
import json
from pathlib import Path

from robustbench_jax import signing
from robustbench_jax.bench import console
from robustbench_jax.data import SPLITS, load_dataset
from robustbench_jax.data import manifest as manifests
from robustbench_jax.data.drift import drift
from robustbench_jax.types import UserError
from robustbench_jax.whole_files import write_whole


def manifest(options: argparse.Namespace) -> int:
    """--new-key makes a key, --key and --out sign, --verify and --public check, --against looks for drift. 1 where the
    data differ.
    """
    if options.new_key:
        signing.new_key(options.new_key, signing.password())
        console.say(f"written: {options.new_key} (keep it secret), {options.new_key}.pub")
        return 0
    if not options.dataset:
        raise UserError("the following arguments are required: --dataset")
    splits = {split: load_dataset(options.dataset, split) for split in SPLITS}
    if options.verify:
        return _verify(options, splits)
    if options.against:
        return _drift(options, splits)
    if not (options.out and options.key):
        raise UserError("manifest: give --key and --out to sign, --verify and --public to check, or --against")
    content = manifests.signed(manifests.manifest(splits), signing.private_key(options.key, signing.password()))
    write_whole(Path(options.out), lambda file: file.write(json.dumps(content).encode() + b"\n"))
    for split, data in splits.items():
        found = manifests.report(data)
        again, conflicts = found["duplicates"], found["label_conflicts"]
        console.say(f"{split}: {len(data)} examples, {again} duplicates, {conflicts} of them with another label")
    console.say(f"written: {options.out}")
    return 0


def _verify(options: argparse.Namespace, splits) -> int:
    if not options.public:
        raise UserError("--verify: say with --public whose key it should be")
    content = manifests.read(options.verify)
    manifests.check_signature(content, signing.public_key(options.public), options.verify)
    found = [manifests.differences(content, split, data) for split, data in splits.items()]
    for each in filter(None, found):
        console.say(f"DIFFERS {each}")
    if not any(found):
        console.say(f"{options.verify}: signature and all {sum(map(len, splits.values()))} examples verify")
    return 1 if any(found) else 0


def _drift(options: argparse.Namespace, splits) -> int:
    drifted = False
    for split, data in splits.items():
        found = drift(data, load_dataset(options.against, split))
        drifted |= found.found()
        said = "DRIFTED" if found.found() else "no drift"
        console.say(
            f"{split}: {said}: p = {found.images:.3g} of the images (MMD^2 {found.mmd:.3g}, {found.compared} of each), "
            f"p = {found.labels:.3g} of the labels"
        )
    return 1 if drifted else 0
